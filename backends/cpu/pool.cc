#include "pool.h"

#include <atomic>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace infiniop::cpu {
namespace {

constexpr size_t max_threads = 256;
constexpr int64_t spin_ns = 70'000;      // a futex wake costs about half of this
constexpr size_t chunks_per_thread = 16; // what a thief can take at a time is a sixteenth of a share

int64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Spins until done() or for `limit` ns; says whether done.
template <class Done> bool spin_until(Done &&done, int64_t limit) {
    if (limit > 0) {
        const int64_t end = now_ns() + limit;
        do {
            for (int i = 0; i < 64; i++) {
                if (done()) {
                    return true;
                }
                relax();
            }
        } while (now_ns() < end);
    }
    return done();
}

void futex_wait(std::atomic<uint32_t> &word, uint32_t seen) {
    syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t> &word) {
    syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// ---- how many threads -----------------------------------------------------------------------------------------

cpu_set_t allowed_cpus() {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) != 0 || CPU_COUNT(&set) == 0) {
        const long n = sysconf(_SC_NPROCESSORS_ONLN);
        for (long i = 0; i < (n > 0 && n < CPU_SETSIZE ? n : 1); i++) {
            CPU_SET(i, &set);
        }
    }
    return set;
}

// Reads up to two integers of a file; "max" counts as -1. Says how many it read.
int read_integers(const char *path, long long values[2]) {
    FILE *file = fopen(path, "re");
    if (!file) {
        return 0;
    }
    char word[2][32];
    const int n = fscanf(file, "%31s %31s", word[0], word[1]);
    fclose(file);
    for (int i = 0; i < n; i++) {
        values[i] = strcmp(word[i], "max") == 0 ? -1 : atoll(word[i]);
    }
    return n < 0 ? 0 : n;
}

// CPUs that the cgroup's quota grants; 0: no quota.
size_t quota_cpus() {
    long long v[2];
    if (read_integers("/sys/fs/cgroup/cpu.max", v) == 2 && v[0] > 0 && v[1] > 0) {
        return v[0] >= v[1] ? size_t(v[0] / v[1]) : 1;
    }
    long long quota[2], period[2];
    if (read_integers("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota) == 1 && quota[0] > 0 &&
        read_integers("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period) == 1 && period[0] > 0) {
        return quota[0] >= period[0] ? size_t(quota[0] / period[0]) : 1;
    }
    return 0;
}

size_t count_threads(size_t cpus) {
    if (const char *text = getenv("INFINIOP_NUM_THREADS")) {
        char *end = nullptr;
        const long n = strtol(text, &end, 10);
        if (end != text && *end == '\0' && n > 0) {
            return size_t(n) < max_threads ? size_t(n) : max_threads;
        }
    }
    const size_t quota = quota_cpus();
    const size_t n = quota && quota < cpus ? quota : cpus;
    return n < max_threads ? n : max_threads;
}

// ---- the pool -------------------------------------------------------------------------------------------------

// A share of the chunks, begin in the low half; the owner takes from the front, thieves from the tail.
struct alignas(64) Share {
    std::atomic<uint64_t> range{0};

    void assign(uint32_t begin, uint32_t end) { range.store(uint64_t(end) << 32 | begin, std::memory_order_relaxed); }

    bool take(bool front, uint32_t &chunk) {
        uint64_t seen = range.load(std::memory_order_relaxed);
        for (;;) {
            const uint32_t begin = uint32_t(seen), end = uint32_t(seen >> 32);
            if (begin >= end) {
                return false;
            }
            const uint64_t next = front ? seen + 1 : seen - (uint64_t(1) << 32);
            if (range.compare_exchange_weak(seen, next, std::memory_order_relaxed)) {
                chunk = front ? begin : end - 1;
                return true;
            }
        }
    }
};

struct Job {
    detail::Body *body;
    const void *context;
    size_t n;
    size_t chunk; // items in one
};

// What the machine grants, read once.
struct Grant {
    cpu_set_t cpus = allowed_cpus();
    size_t size = count_threads(size_t(CPU_COUNT(&cpus)));
    bool fits = size <= size_t(CPU_COUNT(&cpus));
};

struct Pool {
    explicit Pool(const Grant &grant)
        : cpus(grant.cpus), size(grant.size), spin(grant.fits ? spin_ns : 0),
          keep_apart(grant.fits && size > 1 && size <= 16) {}

    const cpu_set_t cpus;
    const size_t size;
    const int64_t spin;
    const bool keep_apart; // whether workers keep off the caller's CPU
    int caller_cpu = -1;   // the CPU that they keep off now
    size_t started = 0;    // workers that run
    bool start_tried = false;

    alignas(64) std::atomic<bool> busy{false};
    alignas(64) std::atomic<uint32_t> generation{0}; // of jobs; workers sleep on it
    alignas(64) std::atomic<uint32_t> sleepers{0};
    alignas(64) std::atomic<uint32_t> inside{0}; // workers that may touch the job; the caller sleeps on it
    std::atomic<bool> open{false};               // workers may enter
    std::atomic<bool> caller_sleeps{false};
    Job job{};
    pthread_t threads[max_threads];
    Share shares[max_threads];

    void start();
    void publish();
    void work(size_t self);
    void finish();
    void worker(size_t self);
};

alignas(Pool) char pool_memory[sizeof(Pool)]; // never destroyed: workers outlive main
std::atomic<Pool *> pool_pointer{nullptr};
pthread_once_t pool_once = PTHREAD_ONCE_INIT;

const Grant &grant() {
    static const Grant once;
    return once;
}

// The child of a fork has no workers, and whatever the parent's did stopped midway.
void reset_after_fork() { pool_pointer.store(new (pool_memory) Pool(grant())); }

void make_pool() {
    reset_after_fork();
    pthread_atfork(nullptr, nullptr, reset_after_fork);
}

Pool &pool() {
    if (Pool *p = pool_pointer.load(std::memory_order_acquire)) {
        return *p;
    }
    pthread_once(&pool_once, make_pool);
    return *pool_pointer.load(std::memory_order_acquire);
}

void *worker_main(void *argument) {
    pool().worker(reinterpret_cast<size_t>(argument));
    return nullptr;
}

// Workers inherit no signals, so that the program's own threads handle them.
void Pool::start() {
    start_tried = true;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started + 1 < size) {
        if (pthread_create(&threads[started + 1], nullptr, worker_main, reinterpret_cast<void *>(started + 1)) != 0) {
            break;
        }
        pthread_detach(threads[started + 1]);
        started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// Wakes the workers. One that wakes on the caller's CPU waits for it and halves the speed, so sleepers are kept off it.
void Pool::publish() {
    open.store(true);
    generation.fetch_add(1);
    if (sleepers.load() == 0) {
        return;
    }
    const int cpu = keep_apart ? sched_getcpu() : -1;
    if (cpu >= 0 && cpu != caller_cpu) {
        caller_cpu = cpu;
        cpu_set_t others = cpus;
        CPU_CLR(cpu, &others);
        if (CPU_COUNT(&others) > 0) {
            for (size_t i = 1; i <= started; i++) {
                pthread_setaffinity_np(threads[i], sizeof(others), &others);
            }
        }
    }
    futex_wake_all(generation);
}

void Pool::work(size_t self) {
    const Job current = job;
    const size_t nthreads = started + 1;
    for (size_t i = 0; i < nthreads; i++) {
        Share &share = shares[self + i < nthreads ? self + i : self + i - nthreads];
        for (uint32_t chunk; share.take(i == 0, chunk);) {
            const size_t begin = chunk * current.chunk;
            const size_t end = current.n - begin < current.chunk ? current.n : begin + current.chunk;
            current.body(current.context, begin, end);
        }
    }
}

// No chunk is left to take: wait for those being worked on.
void Pool::finish() {
    open.store(false);
    if (spin_until([&] { return inside.load() == 0; }, spin)) {
        return;
    }
    caller_sleeps.store(true);
    for (uint32_t left; (left = inside.load()) != 0;) {
        futex_wait(inside, left);
    }
    caller_sleeps.store(false);
}

void Pool::worker(size_t self) {
    for (uint32_t seen = 0;;) {
        const auto published = [&] { return generation.load() != seen; };
        if (!spin_until(published, spin)) {
            sleepers.fetch_add(1);
            while (!published()) {
                futex_wait(generation, seen);
            }
            sleepers.fetch_sub(1);
        }
        seen = generation.load();
        inside.fetch_add(1);
        if (open.load()) {
            work(self);
        }
        if (inside.fetch_sub(1) == 1 && caller_sleeps.load()) {
            futex_wake_all(inside);
        }
    }
}

} // namespace

size_t thread_count() { return pool().size; }

void detail::run_parallel(size_t n, size_t grain, Body *body, const void *context) {
    Pool &p = pool();
    if (p.size < 2 || p.busy.exchange(true)) {
        body(context, 0, n);
        return;
    }
    if (!p.start_tried) {
        p.start();
    }
    const size_t nthreads = p.started + 1;
    const size_t most = chunks_per_thread * nthreads;
    const size_t least = grain ? grain : 1;
    const size_t chunk = (n + most - 1) / most > least ? (n + most - 1) / most : least;
    const size_t chunks = (n + chunk - 1) / chunk;
    p.job = {body, context, n, chunk};
    for (size_t i = 0; i < nthreads; i++) {
        p.shares[i].assign(uint32_t(chunks * i / nthreads), uint32_t(chunks * (i + 1) / nthreads));
    }
    p.publish();
    p.work(0);
    p.finish();
    p.busy.store(false);
}

} // namespace infiniop::cpu
