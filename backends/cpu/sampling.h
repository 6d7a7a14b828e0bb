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

    static constexpr size_t block = 256, most_groups = 2048;

    const T *logits;
    size_t n;
    C largest = lowest;
    C temperature = 1;
    size_t group;         // values in one, whole blocks
    size_t groups;        // the last one may be shorter
    C bests[most_groups]; // the largest value of each; NaN is passed over

    LogitRow(const T *logits, size_t n)
        : logits(logits), n(n), group(std::max(block, (n + most_groups * block - 1) / (most_groups * block) * block)),
          groups((n + group - 1) / group) {
        for (size_t g = 0; g < groups; g++) {
            const T *from = logits + g * group;
            const size_t count = std::min(group, n - g * group);
            bests[g] = max_over<T>(count, [&](size_t i, auto part) { return load(from + i, part); });
            largest = std::max(largest, bests[g]);
        }
    }

    // Calls f(first, values, count) for blocks of values, but for groups in which none reaches the bound.
    template <class F> void values(F &&f, C bound = lowest) const {
        for (size_t first = 0; first < n; first += block) {
            if (bests[first / group] < bound) {
                continue;
            }
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

    // Calls f(first, values, weights, count) for blocks, as above; f may change the weights.
    template <class F> void weights(F &&f, C bound = lowest) const {
        values(
            [&](size_t first, const C *v, size_t count) {
                alignas(64) C w[block];
                weigh(v, w, count);
                f(first, v, w, count);
            },
            bound);
    }

    double total_weight() const {
        double total = 0;
        weights([&](size_t, const C *, const C *w, size_t count) {
            total += sum_over<C>(count, [&](size_t i, auto part) { return load(w + i, part); });
        });
        return total;
    }

    // The index of the nth value (from 1) that equals one of the row; 0 when there are fewer.
    size_t nth_equal(C value, size_t nth) const {
        for (size_t g = 0; g < groups; g++) {
            for (size_t i = g * group; bests[g] >= value && i < std::min(n, (g + 1) * group); i++) {
                if (get(logits[i]) == value && --nth == 0) {
                    return i;
                }
            }
        }
        return 0;
    }

    // The lowest index of the largest value.
    size_t argmax() const { return nth_equal(largest, 1); }

private:
    static constexpr C lowest = -std::numeric_limits<C>::infinity();
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

// The descending order of a row, as far as it is asked for. The head, some hundred values, is sorted; what reaches
// beyond it is found by counts and weights of the keys' leading bits, and only the keys of one such bin are looked at
// one by one.
template <class T> class Ranking {
public:
    using C = compute_t<T>;
    using K = key_t<C>;

    explicit Ranking(const LogitRow<T> &row) : row_(row) { sort_head(); }

    // The first key in descending order at which reached(count, mass) holds, both of them with all values of that key
    // included; the last key when rounding lets it never hold. reached must stay true once it is.
    template <class Reached> Cut<C> cut(Reached &&reached) const {
        Cut<C> cut = {0, 0, 0.0, 0, 0.0};
        if (walk(head_, head_weights_, head_size_, cut, reached)) {
            return cut;
        }
        cut = {0, 0, 0.0, 0, 0.0};
        int end = 8 * sizeof(K), shift = end - digit_bits;
        for (;;) {
            Bins bins;
            fill(bins, cut.key, shift, end);
            descend(bins, shift, cut, reached);
            if (cut.count <= room || shift == 0) {
                break;
            }
            end = shift;
            shift = shift > digit_bits ? shift - digit_bits : 0;
        }
        if (shift > 0) {
            resolve(shift, cut, reached);
        }
        return cut;
    }

private:
    static constexpr int digit_bits = 11;
    static constexpr size_t room = 1024; // keys that are sorted rather than counted

    // All values that reach what some hundred groups reach, unless there are too many.
    void sort_head() {
        if (row_.n == 0) {
            return;
        }
        constexpr C infinity = std::numeric_limits<C>::infinity();
        C bests[LogitRow<T>::most_groups];
        const size_t wanted = std::min<size_t>(room / 4, row_.groups - row_.groups / 4);
        std::copy(row_.bests, row_.bests + row_.groups, bests);
        std::nth_element(bests, bests + (wanted - 1), bests + row_.groups, std::greater<>());
        const C lowest = std::numeric_limits<C>::lowest();
        const C bound = row_.n <= room ? lowest : std::max(bests[wanted - 1], lowest);
        size_t n = 0;
        const auto collect = [&](size_t, const C *values, size_t count) {
            for (size_t i = 0; i < count; i++) {
                if (values[i] >= bound) {
                    if (n < room) {
                        head_[n] = order_key(values[i]);
                    }
                    n++;
                }
            }
        };
        row_.values(collect, bound);
        if (n <= room && row_.largest < infinity) {
            head_size_ = n;
            weigh_keys(head_, head_weights_, n);
        }
    }

    // Sorts keys and finds their weights; there is room for whole vectors.
    void weigh_keys(K *keys, C *weights, size_t n) const {
        std::sort(keys, keys + n, std::greater<>());
        for (size_t i = 0; i < n; i++) {
            weights[i] = value_of_key<C>(keys[i]);
        }
        row_.weigh(weights, weights, n);
    }

    // Goes along sorted keys; whether the prefix ends among them. If not, cut ends with the last of them.
    template <class Reached>
    static bool walk(const K *keys, const C *weights, size_t n, Cut<C> &cut, Reached &reached) {
        for (size_t i = 0, same; i < n; i += same) {
            same = 1;
            while (i + same < n && keys[i + same] == keys[i]) {
                same++;
            }
            cut.count_above += cut.count;
            cut.mass_above += cut.weight * double(cut.count);
            cut.key = keys[i];
            cut.count = same;
            cut.weight = double(weights[i]);
            if (reached(cut.count_above + same, cut.mass_above + cut.weight * double(same))) {
                return true;
            }
        }
        return false;
    }

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
        weigh_keys(keys, weights, n);
        cut.count = 0;
        walk(keys, weights, n, cut, reached);
    }

    const LogitRow<T> &row_;
    size_t head_size_ = 0;
    K head_[room];
    alignas(64) C head_weights_[room] = {};
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
