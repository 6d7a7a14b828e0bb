// Sums and maxima over rows, as accurate as the row is long: f32 within blocks, f64 across them.
#pragma once

#include <limits>

#include "simd.h"

namespace infiniop::cpu {

constexpr size_t reduce_block = 4096; // items that one f32 sum takes

// Sum of term(i, part) over n items in vectors of T's compute type; lanes beyond a First part must be 0.
template <class T, class F> double sum_over(size_t n, F &&term) {
    using V = vector_t<T>;
    constexpr size_t L = lanes<T>;
    double total = 0;
    for (size_t block = 0; block < n; block += reduce_block) {
        const size_t end = n - block < reduce_block ? n : block + reduce_block;
        V s[4] = {};
        size_t i = block;
        for (; i + 4 * L <= end; i += 4 * L) {
            for (size_t k = 0; k < 4; k++) {
                s[k] += term(i + k * L, All{});
            }
        }
        for_vectors<L>(end - i, [&](size_t j, auto part) { s[0] += term(i + j, part); });
        total += sum((s[0] + s[1]) + (s[2] + s[3]));
    }
    return total;
}

// Largest of value(i, part); -infinity for n = 0. NaN is passed over.
template <class T, class F> compute_t<T> max_over(size_t n, F &&value) {
    using V = vector_t<T>;
    constexpr size_t L = lanes<T>;
    const V lowest = splat<V>(-std::numeric_limits<compute_t<T>>::infinity());
    V m[4] = {lowest, lowest, lowest, lowest};
    size_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L) {
        for (size_t k = 0; k < 4; k++) {
            m[k] = max(value(i + k * L, All{}), m[k]);
        }
    }
    for_vectors<L>(n - i, [&](size_t j, auto part) { m[0] = max(keep(value(i + j, part), part, lowest), m[0]); });
    return max_lane(max(max(m[0], m[1]), max(m[2], m[3])));
}

} // namespace infiniop::cpu
