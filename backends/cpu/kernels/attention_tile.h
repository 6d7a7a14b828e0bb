// Attention of some query rows over a range of keys, by online softmax over tiles of keys. The query heads that share a
// KV head, and neighbouring tokens, are one item, so that each key and value is loaded once for all of them.
#pragma once

#include <limits>

#include "attention_products.h"
#include "vmath.h"

namespace infiniop::cpu {

constexpr float no_score = -std::numeric_limits<float>::infinity();

struct HeadSizes {
    size_t k, v;
    size_t padded_k() const { return padded_head(k); }
    size_t padded_v() const { return padded_head(v); }
};

// The rows of one item: `tokens` tokens of `heads` query heads that share a KV head; row = token * heads + head.
template <class T> struct Queries {
    const T *q;
    T *out;
    ptrdiff_t q_token, q_head, q_last, out_token, out_head, out_last; // strides
    size_t tokens, heads;
    int64_t limit; // keys that the first token sees
    bool causal;   // every further token sees one more
    float scale;
    const float *slopes; // (optional) ALiBi, by head

    size_t rows() const { return tokens * heads; }
    int64_t limit_of(size_t row) const { return causal ? limit + int64_t(row / heads) : limit; }
    int64_t last_limit() const { return causal ? limit + int64_t(tokens) - 1 : limit; }

    // The first row that sees keys from t on.
    size_t first_row(size_t t) const {
        const int64_t tokens_before = int64_t(t) + 1 - limit;
        return causal && tokens_before > 0 ? std::min(size_t(tokens_before), tokens) * heads : 0;
    }
};

// Scratch memory of one lane, in floats.
struct AttentionScratch {
    HeadSizes head;
    size_t rows; // of an item, at most

    size_t q_floats() const { return rows * head.padded_k(); }
    size_t out_floats() const { return rows * head.padded_v(); }
    size_t score_floats() const { return rows * key_tile; }
    size_t state_floats() const { return round_up(rows, width); }                                // maxima, or sums
    size_t tile_floats() const { return key_tile * std::max(head.padded_k(), head.padded_v()); } // keys or values
    size_t floats() const { return q_floats() + out_floats() + score_floats() + 2 * (state_floats() + tile_floats()); }
};

namespace detail {

// e^x for x <= 0, to about 1e-7 of e^0; 0 where it is below 2^-127.
inline vf weight_of(vf x) {
    constexpr float log2e = 0x1.715476p+0f;
    const vf bounded = max(splat<vf>(-127.0f), x * log2e); // NaN stays
    const vf n = round_small(bounded), r = bounded - n;    // 2^n 2^r
    const vf p = polynomial(r, 1.0f, 0.693147f, 0.24022242f, 0.055507336f, 0.009671513f, 0.0013264727f);
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#else
    return p * power_of_two(__builtin_convertvector(n, vi));
#endif
}

inline float weight_of(float x) { return weight_of(splat<vf>(x))[0]; }

inline vi lane_index(size_t i) { return lane_numbers<vf>() + int32_t(i); }

} // namespace detail

// Keys [begin, end) of a sequence; locate(t, count, k, v) says where keys and values t … t + count - 1 lie.
template <class Locate> struct KeyRange {
    size_t begin, end;
    Locate locate;
};

// One item being computed.
template <class T> class Attend {
public:
    // k_last and v_last: strides between a row's elements.
    Attend(const AttentionScratch &layout, float *scratch, const Queries<T> &queries, ptrdiff_t k_last,
           ptrdiff_t v_last)
        : head_(layout.head), queries_(queries), rows_(queries.rows()), k_last_(k_last), v_last_(v_last) {
        q_ = reinterpret_cast<Operand *>(scratch);
        out_ = scratch + layout.q_floats();
        scores_ = out_ + layout.out_floats();
        max_ = scores_ + layout.score_floats();
        sum_ = max_ + layout.state_floats();
        keys_ = sum_ + layout.state_floats();
        values_ = keys_ + layout.tile_floats();
    }

    // following: (optional) keys that the lane turns to after these; the first of them are fetched at the end.
    template <class Range> void run(const Range &keys, const Range *following) {
        start();
        Tile tiles[2];
        fill(tiles[0], keys, keys.begin);
        for (size_t t = keys.begin, i = 0; t < keys.end; t += key_tile, i ^= 1) {
            Tile &tile = tiles[i], &next = tiles[i ^ 1];
            if (t + key_tile < keys.end) {
                fill(next, keys, t + key_tile);
            } else {
                following ? fill(next, *following, following->begin) : fill(next, keys, t);
            }
            const size_t first = few() ? 0 : queries_.first_row(t);
            score(tile, next, first);
            softmax(t, tile.count, first);
            weigh(tile, next, first);
        }
        if (in_halves<T> && few()) {
            for (float *p = out_; p < out_ + rows_ * head_.padded_v(); p += column_block) {
                order_columns(p);
            }
        }
    }

    // out = sums / (denominator + extra); rows that see no key become 0, or stay as they are.
    void write(float extra, bool keep_empty) const {
        for (size_t r = 0; r < rows_; r++) {
            if (sum_[r] > 0.0f || sum_[r] != sum_[r] || !keep_empty) {
                write_row(r, sum_[r] == 0.0f ? 0.0f : 1.0f / (sum_[r] + extra));
            }
        }
    }

    // For the merge of several ranges: per row max, sum and padded(v) unscaled outputs.
    void write_part(float *part) const {
        const size_t row_floats = head_.padded_v() + width;
        for (size_t r = 0; r < rows_; r++, part += row_floats) {
            part[0] = max_[r];
            part[1] = sum_[r];
            std::copy_n(out_ + r * head_.padded_v(), head_.padded_v(), part + width);
        }
    }

    // Merges `n` parts, `stride` floats apart, as if one range had been computed.
    void merge(const float *parts, size_t n, size_t stride) {
        const size_t row_floats = head_.padded_v() + width;
        for (size_t r = 0; r < rows_; r++, parts += row_floats) {
            max_[r] = no_score;
            for (size_t i = 0; i < n; i++) {
                max_[r] = std::max(max_[r], parts[i * stride]);
            }
            sum_[r] = 0.0f;
            float *out = out_ + r * head_.padded_v();
            std::fill_n(out, head_.padded_v(), 0.0f);
            for (size_t i = 0; i < n; i++) {
                const float *part = parts + i * stride;
                const float factor = part[1] == 0.0f ? 0.0f : detail::weight_of(part[0] - max_[r]);
                sum_[r] += part[1] * factor;
                for (size_t d = 0; d < head_.padded_v(); d += width) {
                    store(out + d, load(out + d) + load(part + width + d) * factor);
                }
            }
        }
    }

private:
    using Operand = panel_t<T>;

    bool few() const { return rows_ <= few_query_rows; }

    struct Tile {
        size_t count;
        const T *k[key_tile], *v[key_tile]; // beyond count: the last row again
    };

    template <class Range> static void fill(Tile &tile, const Range &keys, size_t t) {
        tile.count = std::min(key_tile, keys.end - t);
        if (tile.count > 0) {
            keys.locate(t, tile.count, tile.k, tile.v);
            std::fill(tile.k + tile.count, tile.k + key_tile, tile.k[tile.count - 1]);
            std::fill(tile.v + tile.count, tile.v + key_tile, tile.v[tile.count - 1]);
        }
    }

    void start() {
        for (size_t r = 0; r < rows_; r++) {
            const T *src = queries_.q + ptrdiff_t(r / queries_.heads) * queries_.q_token +
                           ptrdiff_t(r % queries_.heads) * queries_.q_head;
            copy_query<T>(q_ + r * head_.padded_k(), src, queries_.q_last, head_.k, rows_ <= rows_of_dots);
        }
        std::fill_n(out_, rows_ * head_.padded_v(), 0.0f);
        std::fill_n(max_, round_up(rows_, width), no_score);
        std::fill_n(sum_, round_up(rows_, width), 0.0f);
    }

    // Both take rows from `first` on.
    void score(Tile &tile, const Tile &next, size_t first) {
        const Operand *q = q_ + first * head_.padded_k();
        float *scores = scores_ + first * key_tile;
        if (k_last_ != 1) {
            gather(tile.k, k_last_, head_.k, reinterpret_cast<T *>(values_));
        }
        if (few()) {
            score_few<T>(tile.k, next.k, tile.count, q, head_.padded_k(), rows_ - first, head_.k, scores);
        } else {
            score_many<T>(tile.k, next.k, tile.count, q, head_.padded_k(), rows_ - first, head_.k,
                          reinterpret_cast<Operand *>(keys_), scores);
        }
    }

    void weigh(Tile &tile, const Tile &next, size_t first) {
        const size_t rows = rows_ - first;
        float *out = out_ + first * head_.padded_v();
        if (v_last_ != 1) {
            gather(tile.v, v_last_, head_.v, reinterpret_cast<T *>(keys_));
        }
        if (few()) {
            weigh_few<T>(tile.v, next.v, tile.count, scores_ + first * key_tile, rows, head_.v, out, head_.padded_v());
        } else {
            weigh_many<T>(tile.v, next.v, tile.count, scores_ + first * key_tile, rows, head_.v, values_, out);
        }
    }

    // Makes the elements of a tile's rows neighbours, in `copy`.
    static void gather(const T **rows, ptrdiff_t stride, size_t n, T *copy) {
        for (size_t i = 0; i < key_tile; i++, copy += n) {
            for (size_t d = 0; d < n; d++) {
                copy[d] = rows[i][ptrdiff_t(d) * stride];
            }
            rows[i] = copy;
        }
    }

    // Scores of the rows from `first` on become weights; maxima, sums and outputs follow. A vector of rows at a time.
    void softmax(size_t t, size_t count, size_t first) {
        for (size_t r = first / width * width; r < rows_; r += width) {
            float scales[width];
            vf parts[width];
            const size_t begin = std::max(r, first), end = std::min(r + width, rows_);
            std::fill_n(parts, width, splat<vf>(no_score));
            for (size_t i = begin; i < end; i++) {
                const size_t visible = visible_keys(i, t, count);
                scales[i - r] = add_bias(i, t, visible);
                parts[i - r] = highest(i, visible, scales[i - r]);
            }
            const vf before = load(max_ + r), top = max(before, across_lanes<detail::Maximum>(parts));
            const vf sums = load(sum_ + r);
            store(max_ + r, top);
            std::fill_n(parts, width, vf{});
            for (size_t i = begin; i < end; i++) {
                parts[i - r] = weigh_row(i, visible_keys(i, t, count), scales[i - r], max_[i]);
            }
            const vf factors = (top == before) | (sums == 0.0f) ? splat<vf>(1.0f) : detail::weight_of(before - top);
            store(sum_ + r, sums * factors + across_lanes<detail::Sum>(parts));
            if (any(factors != 1.0f)) {
                for (size_t i = begin; i < end; i++) {
                    scale_sums(out_ + i * head_.padded_v(), factors[i - r]);
                }
            }
        }
    }

    size_t visible_keys(size_t r, size_t t, size_t count) const {
        const int64_t seen = queries_.limit_of(r) - int64_t(t);
        return seen <= 0 ? 0 : std::min(count, size_t(seen));
    }

    void scale_sums(float *out, float factor) const {
        if (factor != 1.0f) {
            for (size_t d = 0; d < head_.padded_v(); d += width) {
                store(out + d, load(out + d) * factor);
            }
        }
    }

    // With a slope, adds distance to the newest visible key * slope. Returns what scores are still to be scaled by.
    float add_bias(size_t r, size_t t, size_t visible) {
        const float scale = queries_.scale, slope = queries_.slopes ? queries_.slopes[r % queries_.heads] : 0.0f;
        if (slope == 0.0f) {
            return scale;
        }
        const float distance = float(int64_t(t) - (queries_.limit_of(r) - 1));
        float *s = scores_ + r * key_tile;
        for (size_t i = 0; i < visible; i += width) {
            const vf bias = (__builtin_convertvector(detail::lane_index(i), vf) + distance) * slope;
            store(s + i, load(s + i) * scale + bias);
        }
        return 1.0f;
    }

    static vf visible_lanes(vf v, size_t i, size_t visible, float other) {
        return detail::lane_index(i) < int32_t(visible) ? v : splat<vf>(other);
    }

    // The largest score in any lane.
    vf highest(size_t r, size_t visible, float scale) const {
        const float *s = scores_ + r * key_tile;
        vf top = splat<vf>(no_score);
        if (visible == key_tile) {
#pragma GCC unroll 4
            for (size_t i = 0; i < key_tile; i += width) {
                top = max(top, load(s + i) * scale);
            }
            return top;
        }
        for (size_t i = 0; i < visible; i += width) {
            top = max(top, visible_lanes(load(s + i) * scale, i, visible, no_score));
        }
        return top;
    }

    // Scores become weights; those of hidden keys are 0. Returns their sum, in lanes.
    vf weigh_row(size_t r, size_t visible, float scale, float top) {
        float *s = scores_ + r * key_tile;
        vf total = {};
        if (visible == key_tile) {
#pragma GCC unroll 4
            for (size_t i = 0; i < key_tile; i += 2 * width) {
                const vf a = detail::weight_of(load(s + i) * scale - top);
                const vf b = detail::weight_of(load(s + i + width) * scale - top);
                total += a + b;
                store(s + i, a);
                store(s + i + width, b);
            }
            return total;
        }
        for (size_t i = 0; i < key_tile; i += 2 * width) {
            vf a = {}, b = {};
            if (i < visible) {
                a = visible_lanes(detail::weight_of(load(s + i) * scale - top), i, visible, 0.0f);
                b = visible_lanes(detail::weight_of(load(s + i + width) * scale - top), i + width, visible, 0.0f);
                total += a + b;
            }
            store(s + i, a);
            store(s + i + width, b);
        }
        return total;
    }

    void write_row(size_t r, float factor) const {
        const float *sums = out_ + r * head_.padded_v();
        T *out = queries_.out + ptrdiff_t(r / queries_.heads) * queries_.out_token +
                 ptrdiff_t(r % queries_.heads) * queries_.out_head;
        if (queries_.out_last == 1) {
            for_vectors<width>(head_.v,
                               [&](size_t d, auto part) { store(out + d, load(sums + d, part) * factor, part); });
            return;
        }
        for (size_t d = 0; d < head_.v; d++) {
            out[ptrdiff_t(d) * queries_.out_last] = put<T>(sums[d] * factor);
        }
    }

    HeadSizes head_;
    Queries<T> queries_;
    size_t rows_;
    ptrdiff_t k_last_, v_last_;
    Operand *q_;
    float *out_, *scores_, *max_, *sum_, *keys_, *values_;
};

} // namespace infiniop::cpu
