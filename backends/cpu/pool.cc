#include "pool.h"

#include <atomic>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <new>

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cgroup.h"
#include "cpu.h"

namespace infiniop::cpu {
namespace {

constexpr size_t max_threads = 256;
constexpr int64_t spin_ns = 70'000;      // a futex wake costs about half of this
constexpr int64_t glance_ns = 10'000;    // a running worker uses CPU time in so long
constexpr int64_t patience_ns = 500'000; // a waiting caller looks so often whether a worker has lost its CPU
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

// Sleeps while the word has the value seen; for no longer than `limit` ns, if that is not 0.
void futex_wait(std::atomic<uint32_t> &word, uint32_t seen, int64_t limit = 0) {
    const timespec t = {time_t(limit / 1'000'000'000), long(limit % 1'000'000'000)};
    syscall(SYS_futex, reinterpret_cast<uint32_t *>(&word), FUTEX_WAIT_PRIVATE, seen, limit ? &t : nullptr, nullptr, 0);
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

// What INFINIOP_NUM_THREADS says; 0: nothing, or nothing sensible.
size_t wanted_threads() {
    const char *text = getenv("INFINIOP_NUM_THREADS");
    if (!text || !*text) {
        return 0;
    }
    char *end = nullptr;
    const long n = strtol(text, &end, 10);
    if (*end == '\0' && n >= 1 && size_t(n) <= max_threads) {
        return size_t(n);
    }
    char message[128];
    snprintf(message, sizeof(message), "INFINIOP_NUM_THREADS=%.40s is ignored: expected a number from 1 to %zu", text,
             max_threads);
    host->log(INFINIOP_LOG_WARNING, message);
    return 0;
}

// A quota of 1.5 CPUs gives two threads, one of 1.4 a single one: with the quota spent, all threads stop for a while.
size_t granted_threads(size_t cpus) {
    const double quota = cpu_quota();
    size_t n = cpus < max_threads ? cpus : max_threads;
    if (quota > 0 && quota < double(n)) {
        n = quota < 1.5 ? 1 : size_t(quota + 0.5);
    }
    return n;
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

struct alignas(64) Worker {
    std::atomic<bool> inside{false}; // may touch the job
    std::atomic<bool> guest{false};  // on the caller's CPU, to finish its chunk there
    // The rest is the caller's.
    pthread_t thread;
    clockid_t clock;   // of the CPU time it has used
    bool lent;         // it was put on the caller's CPU
    cpu_set_t allowed; // the CPUs it has from the pool's start, or from who changed them since (taskset)
    cpu_set_t placed;  // what the pool last chose of them
};

struct Pool {
    Pool(size_t threads, bool explicit_size, const cpu_set_t &where, bool forked)
        : size(threads), size_is_explicit(explicit_size), in_child(forked), cpus(where) {}

    const size_t size;
    const bool size_is_explicit;
    const bool in_child;
    cpu_set_t cpus;
    int64_t spin = 0;        // no worker has to wait for a CPU: spin for so long before sleeping
    bool keep_apart = false; // whether workers keep off the caller's CPU
    int caller_cpu = -1;     // the CPU that they keep off now
    bool has_guests = false;
    bool start_tried = false;
    size_t started = 0; // workers that run

    alignas(64) std::atomic<bool> busy{false};
    alignas(64) std::atomic<uint32_t> generation{0}; // of jobs; workers sleep on it
    alignas(64) std::atomic<uint32_t> sleepers{0};
    alignas(64) std::atomic<uint32_t> inside{0}; // workers that may touch the job; the caller sleeps on it
    std::atomic<bool> open{false};               // workers may enter
    std::atomic<bool> caller_sleeps{false};
    Job job{};
    Worker workers[max_threads]; // from 1: the caller is number 0
    Share shares[max_threads];

    void start();
    void publish();
    void work(size_t self);
    void finish();
    void place(Worker &worker, const cpu_set_t &wanted);
    void keep_off(int cpu);
    void lend_cpu();
    void worker(size_t self);
};

alignas(Pool) char pool_memory[sizeof(Pool)]; // never destroyed: workers outlive main
std::atomic<Pool *> pool_pointer{nullptr};
pthread_once_t pool_once = PTHREAD_ONCE_INIT;

// The child of a fork has no workers, and whatever the parent's did stopped midway.
void reset_after_fork() {
    if (const Pool *parents = pool_pointer.load()) {
        const size_t size = parents->size;
        const bool size_is_explicit = parents->size_is_explicit;
        const cpu_set_t cpus = parents->cpus;
        pool_pointer.store(new (pool_memory) Pool(size, size_is_explicit, cpus, true));
    }
}

void make_pool() {
    pthread_atfork(nullptr, nullptr, reset_after_fork);
    const cpu_set_t cpus = allowed_cpus();
    const size_t wanted = wanted_threads();
    const size_t size = wanted ? wanted : granted_threads(size_t(CPU_COUNT(&cpus)));
    pool_pointer.store(new (pool_memory) Pool(size, wanted != 0, cpus, false));
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

// Workers take no signals: those are for the program's own threads. A child may have other CPUs than its parent.
void Pool::start() {
    start_tried = true;
    if (in_child) {
        cpus = allowed_cpus();
    }
    const size_t ncpus = size_t(CPU_COUNT(&cpus));
    const size_t threads = size_is_explicit || size < ncpus ? size : ncpus;
    spin = threads <= ncpus ? spin_ns : 0;
    keep_apart = threads <= ncpus && threads <= 16;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started + 1 < threads) {
        Worker &w = workers[started + 1];
        if (pthread_create(&w.thread, nullptr, worker_main, reinterpret_cast<void *>(started + 1)) != 0) {
            break;
        }
        pthread_detach(w.thread);
        pthread_getcpuclockid(w.thread, &w.clock);
        pthread_setaffinity_np(w.thread, sizeof(cpus), &cpus);
        w.lent = false;
        w.allowed = w.placed = cpus;
        started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// Wakes the workers.
void Pool::publish() {
    open.store(true);
    generation.fetch_add(1);
    const bool wake = sleepers.load() != 0;
    if (wake || has_guests) {
        const int cpu = sched_getcpu();
        if (has_guests || (keep_apart && cpu != caller_cpu)) {
            keep_off(cpu);
        }
    }
    if (wake) {
        futex_wake_all(generation);
    }
}

// Restricts a worker to the wanted ones of its CPUs, where there are any. Whoever else sets its affinity is obeyed,
// also one who gives caller and worker alike just what the pool had chosen.
void Pool::place(Worker &w, const cpu_set_t &wanted) {
    cpu_set_t now, callers, next;
    if (pthread_getaffinity_np(w.thread, sizeof(now), &now) != 0 ||
        sched_getaffinity(0, sizeof(callers), &callers) != 0) {
        return;
    }
    if (!CPU_EQUAL(&now, &w.placed) || (!w.lent && CPU_EQUAL(&now, &callers))) {
        w.allowed = now;
    }
    CPU_AND(&next, &wanted, &w.allowed);
    if (CPU_COUNT(&next) > 0 && !CPU_EQUAL(&now, &next) && pthread_setaffinity_np(w.thread, sizeof(next), &next) == 0) {
        w.placed = next;
    }
}

// A worker that wakes on the caller's CPU waits for it and halves the speed. Sends guests home, too.
void Pool::keep_off(int cpu) {
    cpu_set_t others = cpus;
    if (keep_apart && cpu >= 0) {
        CPU_CLR(cpu, &others);
    }
    for (size_t i = 1; i <= started; i++) {
        place(workers[i], others);
        workers[i].lent = false;
    }
    caller_cpu = cpu;
    has_guests = false;
}

// The caller has nothing left to do but wait, perhaps for a worker whose CPU another process has taken for the next
// milliseconds: such a worker uses no CPU time. It gets the caller's CPU to finish its chunk.
void Pool::lend_cpu() {
    const auto used_ns = [](const Worker &w) {
        timespec t;
        return clock_gettime(w.clock, &t) == 0 ? int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec : -1;
    };
    int64_t before[max_threads];
    for (size_t i = 1; i <= started; i++) {
        before[i] = workers[i].inside.load() ? used_ns(workers[i]) : -1;
    }
    if (spin_until([&] { return inside.load() == 0; }, glance_ns)) {
        return;
    }
    const int cpu = sched_getcpu();
    for (size_t i = 1; i <= started && cpu >= 0; i++) {
        Worker &w = workers[i];
        if (before[i] >= 0 && w.inside.load() && !w.guest.load() && used_ns(w) == before[i]) {
            cpu_set_t here;
            CPU_ZERO(&here);
            CPU_SET(cpu, &here);
            w.guest.store(true);
            has_guests = true;
            place(w, here);
            w.lent = true;
            return;
        }
    }
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
        lend_cpu();
        futex_wait(inside, left, patience_ns);
    }
    caller_sleeps.store(false);
}

void Pool::worker(size_t self) {
    Worker &me = workers[self];
    for (uint32_t seen = 0;;) {
        const auto published = [&] { return generation.load() != seen; };
        const bool is_guest = me.guest.exchange(false); // leaves the caller's CPU at once
        if (!spin_until(published, is_guest ? 0 : spin)) {
            sleepers.fetch_add(1);
            while (!published()) {
                futex_wait(generation, seen);
            }
            sleepers.fetch_sub(1);
        }
        seen = generation.load();
        me.inside.store(true);
        inside.fetch_add(1);
        if (open.load()) {
            work(self);
        }
        me.inside.store(false);
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
