// The CPU backend's thread pool by itself: every item once, from several callers at once, nested, across forks, while
// affinities change, beside other processes. The argument names the test; `count` prints the number of threads.
#include "pool.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <dirent.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpu.h"

namespace {

void log(infiniopLogLevel, const char *text) { fprintf(stderr, "%s\n", text); }
const infiniopHost test_host = {sizeof(infiniopHost), 0, 1, nullptr, log, nullptr, nullptr};

using infiniop::cpu::parallel_for;

#define CHECK(what)                                                                                                    \
    do {                                                                                                               \
        if (!(what)) {                                                                                                 \
            fprintf(stderr, "line %d: %s\n", __LINE__, #what);                                                         \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

// Whether a loop over n items meets each of them once, in ranges of at least `grain`.
bool covers(size_t n, size_t grain, int spin = 0) {
    thread_local std::vector<std::atomic<int>> memory(100000); // a sanitizer's allocator may not survive a fork
    std::atomic<int> *const met = memory.data();
    CHECK(n <= memory.size());
    for (size_t i = 0; i < n; i++) {
        met[i] = 0;
    }
    std::atomic<bool> fair{true};
    parallel_for(n, grain, [&](size_t begin, size_t end) {
        fair = fair && begin < end && end <= n && (end - begin >= grain || end == n);
        for (size_t i = begin; i < end; i++) {
            met[i]++;
            for (volatile int k = 0; k < spin; k = k + 1) {
            }
        }
    });
    for (size_t i = 0; i < n; i++) {
        if (met[i] != 1) {
            return false;
        }
    }
    return fair;
}

void stress(unsigned seed, int rounds) {
    std::mt19937 random(seed);
    for (int i = 0; i < rounds; i++) {
        CHECK(covers(random() % 3000, 1 + random() % 40, int(random() % 50)));
        if (i % 50 == 0) {
            usleep(random() % 1000); // the workers fall asleep
        }
    }
}

void nest() {
    std::atomic<int> met{0};
    parallel_for(8, 1, [&](size_t begin, size_t end) {
        for (; begin < end; begin++) {
            parallel_for(100, 1, [&](size_t from, size_t to) { met += int(to - from); });
        }
    });
    CHECK(met == 800);
}

void callers() {
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; t++) {
        threads.emplace_back(stress, t, 300);
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
}

// Forks while another thread's loop runs: the child's pool works, the parent's goes on; the child forks as well.
void forks() {
    std::atomic<bool> stop{false};
    std::thread other([&] {
        for (unsigned i = 0; !stop; i++) {
            stress(i, 20);
        }
    });
    for (int i = 0; i < 10; i++) {
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(60);
            stress(7, 30);
            const pid_t grandchild = fork();
            if (grandchild == 0) {
                stress(8, 30);
                _exit(0);
            }
            int status;
            CHECK(waitpid(grandchild, &status, 0) == grandchild && status == 0);
            _exit(0);
        }
        stress(9, 20);
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
    stop = true;
    other.join();
}

std::vector<pid_t> all_threads() {
    std::vector<pid_t> ids;
    DIR *folder = opendir("/proc/self/task");
    while (const dirent *entry = readdir(folder)) {
        if (entry->d_name[0] != '.') {
            ids.push_back(atoi(entry->d_name));
        }
    }
    closedir(folder);
    return ids;
}

cpu_set_t affinity(pid_t thread) {
    cpu_set_t set;
    CHECK(sched_getaffinity(thread, sizeof(set), &set) == 0);
    return set;
}

// The caller moves from CPU to CPU.
void migrate() {
    const cpu_set_t all = affinity(0);
    for (int i = 0; i < 40; i++) {
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (CPU_ISSET(cpu, &all)) {
                cpu_set_t one;
                CPU_ZERO(&one);
                CPU_SET(cpu, &one);
                CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
                stress(unsigned(i), 4);
            }
        }
    }
    CHECK(sched_setaffinity(0, sizeof(all), &all) == 0);
}

// Somebody restricts every thread to one CPU, as `taskset -a` does: the pool keeps to it.
void restrict_all() {
    const cpu_set_t all = affinity(0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all)) {
            continue;
        }
        stress(unsigned(cpu), 30);
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        for (const pid_t thread : all_threads()) {
            CHECK(sched_setaffinity(thread, sizeof(one), &one) == 0);
        }
        stress(unsigned(cpu), 200);
        for (const pid_t thread : all_threads()) {
            const cpu_set_t now = affinity(thread);
            CHECK(CPU_EQUAL(&now, &one));
        }
        for (const pid_t thread : all_threads()) {
            CHECK(sched_setaffinity(thread, sizeof(all), &all) == 0);
        }
        stress(unsigned(cpu), 30);
    }
}

// Other processes take the CPUs in the middle of chunks.
void crowd() {
    std::vector<pid_t> hogs;
    for (int i = 0; i < 3; i++) {
        hogs.push_back(fork());
        CHECK(hogs.back() >= 0);
        if (hogs.back() == 0) {
            alarm(60);
            for (volatile int k = 0;; k = k + 1) {
            }
        }
    }
    for (int i = 0; i < 30; i++) {
        CHECK(covers(64, 1, 20000));
    }
    for (const pid_t hog : hogs) {
        kill(hog, SIGKILL);
        waitpid(hog, nullptr, 0);
    }
}

} // namespace

int main(int, char **arguments) {
    infiniop::backend::host = &test_host;
    const std::string test = arguments[1];
    if (test == "count") {
        printf("%zu\n", infiniop::cpu::thread_count());
        return 0;
    }
    CHECK(covers(0, 1) && covers(1, 1) && covers(5, 100) && covers(100000, 1));
    test == "stress"     ? stress(1, 1500)
    : test == "nest"     ? nest()
    : test == "callers"  ? callers()
    : test == "forks"    ? forks()
    : test == "migrate"  ? migrate()
    : test == "restrict" ? restrict_all()
                         : crowd();
    CHECK(covers(1000, 1));
    puts("ok");
}
