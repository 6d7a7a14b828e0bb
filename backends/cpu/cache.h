// The processor's caches, and when to write past them.
#pragma once

#include <cstddef>
#include <string>

namespace infiniop::cpu {

constexpr size_t cache_line = 64;

// Bytes of the largest cache of a processor; 0: unknown. `root` stands before the path that is read.
size_t largest_cache(const std::string &root = "");

// What INFINIOP_CPU_CACHE_BYTES says, else the machine's answer.
size_t cache_bytes();

// Whether a result is better written past the caches, when its operator touches so many bytes: its lines need not be
// read before, and what begins to be written is displaced before the end anyway. Below three quarters of the cache
// whoever reads the result next loses more than that.
inline bool exceeds_cache(size_t bytes) {
    const size_t cache = cache_bytes();
    return cache > 0 && bytes >= cache / 4 * 3;
}

} // namespace infiniop::cpu
