// One row of logits as random_sample, sample and topk look at it: blocks of f32 (or f64) values, their softmax weights, and
// the selection of a prefix of the descending order without sorting (radix selection on the bits of the values).
#pragma once

#include <limits>
#include <type_traits>

#include "reduce.h"
#include "vmath.h"

namespace infiniop::cpu {

// Unsigned integers in the order of the values: a > b exactly when the key of a is larger. -0 and +0 share a key.
template <class C> using key_t = std::conditional_t<sizeof(C) == 8, uint64_t, uint32_t>;

template <class C> key_t<C> order_key(C value) {
    using K = key_t<C>;
    constexpr K sign = K(1) << (8 * sizeof(K) - 1);
    const K bits = bit_cast<K>(value + C(0));
    return bits & sign ? ~bits : bits | sign;
}

template <class T> struct LogitRow {
    using C = compute_t<T>;

    static constexpr size_t block = 256;

    const T *logits;
    size_t n;
    C largest = 0;
    C temperature = 1;

    LogitRow(const T *logits, size_t n) : logits(logits), n(n) {
        largest = max_over<T>(n, [&](size_t i, auto part) { return load(logits + i, part); });
    }

    // Calls f(first, values, count) for blocks of values.
    template <class F> void values(F &&f) const {
        for (size_t first = 0; first < n; first += block) {
            alignas(64) C v[block];
            const size_t count = n - first < block ? n - first : block;
            for_vectors<lanes<T>>(count, [&](size_t i, auto) {
                const size_t left = count - i;
                store(v + i, left < lanes<T> ? load(logits + first + i, First{left}) : load(logits + first + i));
            });
            f(first, static_cast<const C *>(v), count);
        }
    }

    // The same with weights exp((value - largest) / temperature), which f may change; NaN weighs nothing.
    template <class F> void weights(F &&f) const {
        using V = vector_t<T>;
        values([&](size_t first, const C *v, size_t count) {
            alignas(64) C w[block];
            for (size_t i = 0; i < count; i += lanes<T>) {
                const V e = exp((load(v + i) - splat<V>(largest)) / splat<V>(temperature));
                store(w + i, e == e ? e : V{});
            }
            f(first, v, w, count);
        });
    }

    // The lowest index of the largest value.
    size_t argmax() const {
        for (size_t i = 0; i < n; i++) {
            if (get(logits[i]) == largest) {
                return i;
            }
        }
        return 0;
    }
};

// Where a prefix of the descending order ends: among the values with this key.
template <class C> struct Cut {
    key_t<C> key;
    size_t count_above; // values before that key
    double mass_above;  // their weight
    size_t count;       // values with that key
    double weight;      // of one of them

    // How many of them it takes to reach a mass: at least one, at most all.
    size_t needed(double mass) const {
        const double missing = weight > 0 ? std::ceil((mass - mass_above) / weight) : 1;
        return missing < 1 ? 1 : missing < double(count) ? size_t(missing) : count;
    }
};

// The first key in descending order at which reached(count, mass) holds, both of them with all values of that key
// included; the last key when it never does. reached must stay true once it is.
template <class T, class Reached> Cut<compute_t<T>> select(const LogitRow<T> &row, Reached &&reached) {
    using C = compute_t<T>;
    using K = key_t<C>;
    constexpr int digit_bits = 8, width = 8 * sizeof(K);
    Cut<C> cut = {0, 0, 0.0, 0, 0.0};
    for (int shift = width - digit_bits; shift >= 0; shift -= digit_bits) {
        size_t count[1 << digit_bits] = {};
        double mass[1 << digit_bits] = {};
        row.weights([&](size_t, const C *v, const C *w, size_t n) {
            for (size_t i = 0; i < n; i++) {
                const K key = order_key(v[i]);
                if ((key >> shift >> digit_bits) == (cut.key >> shift >> digit_bits)) {
                    const size_t digit = key >> shift & ((1 << digit_bits) - 1);
                    count[digit]++;
                    mass[digit] += w[i];
                }
            }
        });
        int digit = (1 << digit_bits) - 1, last = 0;
        for (; digit >= 0; digit--) {
            if (count[digit] > 0) {
                last = digit;
                if (reached(cut.count_above + count[digit], cut.mass_above + mass[digit])) {
                    break;
                }
                cut.count_above += count[digit];
                cut.mass_above += mass[digit];
            }
        }
        if (digit < 0) { // only rounding leads here: the whole of the last digit counts
            digit = last;
            cut.count_above -= count[digit];
            cut.mass_above -= mass[digit];
        }
        cut.key |= K(digit) << shift;
        cut.count = count[digit];
        cut.weight = mass[digit] / double(count[digit] ? count[digit] : 1);
    }
    return cut;
}

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"): the first word.
inline uint32_t philox(uint64_t key, uint64_t counter) {
    uint32_t c[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
    uint32_t k[2] = {uint32_t(key), uint32_t(key >> 32)};
    for (int round = 0; round < 10; round++) {
        const uint64_t a = uint64_t(0xD2511F53u) * c[0], b = uint64_t(0xCD9E8D57u) * c[2];
        const uint32_t next[4] = {uint32_t(b >> 32) ^ c[1] ^ k[0], uint32_t(b), uint32_t(a >> 32) ^ c[3] ^ k[1],
                                  uint32_t(a)};
        std::memcpy(c, next, sizeof(c));
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    return c[0];
}

} // namespace infiniop::cpu
