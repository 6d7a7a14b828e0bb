// One thread pool for all kernels of the CPU backend.
#pragma once

#include <cstddef>
#include <type_traits>

namespace infiniop::cpu {

// Threads that a parallel loop may use, the caller included: INFINIOP_NUM_THREADS, else what affinity and cgroup grant.
size_t thread_count();

namespace detail {
using Body = void(const void *context, size_t begin, size_t end);
void run_parallel(size_t n, size_t grain, Body *body, const void *context);
} // namespace detail

// Calls f(begin, end) on disjoint ranges that cover [0, n), each of at least `grain` items but the last. Returns when
// all are done. f must not throw. Nested calls, and calls while the pool is busy, run in the calling thread.
template <class F> void parallel_for(size_t n, size_t grain, F &&f) {
    if (n <= grain || n <= 1) {
        if (n > 0) {
            f(size_t{0}, n);
        }
        return;
    }
    using Callable = std::remove_reference_t<F>;
    detail::run_parallel(
        n, grain,
        [](const void *context, size_t begin, size_t end) {
            (*const_cast<Callable *>(static_cast<const Callable *>(context)))(begin, end);
        },
        &f);
}

// Items per range so that a range touches about 32 KiB, for items that cost `bytes` of traffic (or as many operations).
constexpr size_t grain_for(size_t bytes) { return bytes >= 32768 ? 1 : 32768 / (bytes ? bytes : 1); }

} // namespace infiniop::cpu
