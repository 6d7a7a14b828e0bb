// Tasks of uneven cost that need scratch memory: one lane per thread, each with its own part of the workspace, takes
// tasks from a shared counter. Results must not depend on who runs what.
#pragma once

#include <algorithm>
#include <atomic>

#include "pool.h"

namespace infiniop::cpu {

// Calls f(lane, task) once for every task below n; lane < lanes.
template <class F> void for_tasks(size_t n, size_t lanes, F &&f) {
    std::atomic<size_t> next{0};
    parallel_for(lanes < n ? lanes : n, 1, [&](size_t begin, size_t end) {
        for (size_t lane = begin; lane < end; lane++) {
            for (size_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
                f(lane, task);
            }
        }
    });
}

// The same, but a lane's tasks follow each other, and it takes another's when its own are done.
template <class F> void for_runs(size_t n, size_t lanes, F &&f) {
    constexpr size_t most = 256;
    lanes = std::min({lanes, n, most});
    std::atomic<size_t> next[most];
    for (size_t i = 0; i < lanes; i++) {
        next[i].store(n * i / lanes, std::memory_order_relaxed);
    }
    parallel_for(lanes, 1, [&](size_t begin, size_t end) {
        for (size_t lane = begin; lane < end; lane++) {
            for (size_t i = 0; i < lanes; i++) {
                const size_t run = (lane + i) % lanes, stop = n * (run + 1) / lanes;
                for (size_t task; (task = next[run].fetch_add(1, std::memory_order_relaxed)) < stop;) {
                    f(lane, task);
                }
            }
        }
    });
}

} // namespace infiniop::cpu
