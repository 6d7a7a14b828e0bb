// One row of logits as random_sample, sample and topk look at it: blocks of f32 (or f64) values, their softmax weights,
// and the selection of a prefix of the descending order without sorting (by the bits of the values).
#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <type_traits>

#include "reduce.h"
#include "vmath.h"

namespace infiniop::cpu {

// Unsigned integers in the order of the values: a > b exactly when the key of a is larger. -0 and +0 share a key.
template <class C> using key_t = std::conditional_t<sizeof(C) == 8, uint64_t, uint32_t>;

template <class C> constexpr key_t<C> sign_bit = key_t<C>(1) << (8 * sizeof(C) - 1);

template <class C> key_t<C> order_key(C value) {
    const key_t<C> bits = bit_cast<key_t<C>>(value + C(0));
    return bits & sign_bit<C> ? ~bits : bits | sign_bit<C>;
}

template <class C> C value_of_key(key_t<C> key) {
    return bit_cast<C>(key & sign_bit<C> ? key ^ sign_bit<C> : key_t<C>(~key));
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

    // Weights exp((value - largest) / temperature) of values, in vectors: both arrays have room for whole ones. NaN
    // weighs nothing.
    void weigh(const C *values, C *weights, size_t count) const {
        using V = vector_t<T>;
        for (size_t i = 0; i < count; i += lanes<T>) {
            const V e = exp((load(values + i) - splat<V>(largest)) / splat<V>(temperature));
            store(weights + i, e == e ? e : V{});
        }
    }

    // Calls f(first, values, weights, count) for blocks; f may change the weights.
    template <class F> void weights(F &&f) const {
        values([&](size_t first, const C *v, size_t count) {
            alignas(64) C w[block];
            weigh(v, w, count);
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

// The descending order of a row, as far as it is asked for: counts and weights by the keys' leading bits first; only
// the keys of one such bin are looked at one by one.
template <class T> class Ranking {
public:
    using C = compute_t<T>;
    using K = key_t<C>;

    explicit Ranking(const LogitRow<T> &row) : row_(row) { fill(top_, 0, first_shift, first_shift + digit_bits); }

    double total() const {
        double sum = 0;
        for (double mass : top_.mass) {
            sum += mass;
        }
        return sum;
    }

    // The first key in descending order at which reached(count, mass) holds, both of them with all values of that key
    // included; the last key when rounding lets it never hold. reached must stay true once it is.
    template <class Reached> Cut<C> cut(Reached &&reached) const {
        Cut<C> cut = {0, 0, 0.0, 0, 0.0};
        descend(top_, first_shift, cut, reached);
        int shift = first_shift;
        while (cut.count > room && shift > 0) {
            const int end = shift;
            shift = shift > digit_bits ? shift - digit_bits : 0;
            Bins bins;
            fill(bins, cut.key, shift, end);
            descend(bins, shift, cut, reached);
        }
        if (shift > 0) {
            resolve(shift, cut, reached);
        }
        return cut;
    }

private:
    static constexpr int digit_bits = 11, first_shift = 8 * sizeof(K) - digit_bits;
    static constexpr size_t room = 1024; // keys that are sorted rather than counted

    struct Bins {
        uint32_t count[1 << digit_bits] = {};
        double mass[1 << digit_bits] = {};
    };

    // Calls f(i, key) for the values of a block whose keys agree with `prefix` from bit `end` on.
    template <class F> static void with_prefix(const C *values, size_t n, K prefix, int end, F &&f) {
        const auto agrees = [&](K key) { return end >= int(8 * sizeof(K)) || (key ^ prefix) >> end == 0; };
        constexpr size_t group = 32;
        for (size_t first = 0; first < n; first += group) {
            const size_t last = n - first < group ? n : first + group;
            K keys[group] = {}, any = 0;
            for (size_t i = first; i < last; i++) {
                keys[i - first] = order_key(values[i]);
                any |= agrees(keys[i - first]);
            }
            for (size_t i = first; any && i < last; i++) {
                if (agrees(keys[i - first])) {
                    f(i, keys[i - first]);
                }
            }
        }
    }

    // Counts and weights by the bits from shift to end of the keys that agree with `prefix` above.
    void fill(Bins &bins, K prefix, int shift, int end) const {
        const K mask = (K(1) << (end - shift)) - 1;
        row_.weights([&](size_t, const C *values, const C *weights, size_t n) {
            with_prefix(values, n, prefix, end, [&](size_t i, K key) {
                const size_t digit = size_t(key >> shift & mask);
                bins.count[digit]++;
                bins.mass[digit] += double(weights[i]);
            });
        });
    }

    // Goes down to the bin in which the prefix ends.
    template <class Reached> static void descend(const Bins &bins, int shift, Cut<C> &cut, Reached &reached) {
        size_t chosen = 0, last = 0;
        bool found = false;
        for (size_t digit = size_t(1) << digit_bits; digit-- > 0 && !found;) {
            if (bins.count[digit] > 0) {
                last = digit;
                found = reached(cut.count_above + bins.count[digit], cut.mass_above + bins.mass[digit]);
                cut.count_above += found ? 0 : bins.count[digit];
                cut.mass_above += found ? 0 : bins.mass[digit];
            }
        }
        chosen = last;
        if (!found) {
            cut.count_above -= bins.count[chosen];
            cut.mass_above -= bins.mass[chosen];
        }
        cut.key |= K(chosen) << shift;
        cut.count = bins.count[chosen];
        cut.weight = bins.mass[chosen] / double(cut.count ? cut.count : 1);
    }

    // The keys of one bin, sorted.
    template <class Reached> void resolve(int shift, Cut<C> &cut, Reached &reached) const {
        K keys[room];
        alignas(64) C weights[room] = {}; // whole vectors are read
        size_t n = 0;
        row_.values([&](size_t, const C *values, size_t count) {
            with_prefix(values, count, cut.key, shift, [&](size_t, K key) { keys[n++] = key; });
        });
        std::sort(keys, keys + n, std::greater<>());
        for (size_t i = 0; i < n; i++) {
            weights[i] = value_of_key<C>(keys[i]);
        }
        row_.weigh(weights, weights, n);
        for (size_t i = 0; i < n;) {
            size_t same = 1;
            while (i + same < n && keys[i + same] == keys[i]) {
                same++;
            }
            cut.key = keys[i];
            cut.count = same;
            cut.weight = double(weights[i]);
            const double mass = cut.weight * double(same);
            if (i + same == n || reached(cut.count_above + same, cut.mass_above + mass)) {
                return;
            }
            cut.count_above += same;
            cut.mass_above += mass;
            i += same;
        }
    }

    const LogitRow<T> &row_;
    Bins top_;
};

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
