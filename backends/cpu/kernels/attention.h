// Attention of some query rows over a range of keys, by online softmax over tiles of keys, in f32. The query heads that
// share a KV head, and neighbouring tokens, are one item, so that each key and value is loaded once for all of them.
#pragma once

#include <limits>

#include "lanes.h"
#include "matvec.h"
#include "vmath.h"

namespace infiniop::cpu {

constexpr size_t key_tile = 64; // keys at a time
constexpr size_t max_query_rows = 96;
constexpr size_t few_query_rows = 8; // up to here keys are read in place; above, they are packed first

constexpr float no_score = -std::numeric_limits<float>::infinity();

struct HeadSizes {
    size_t k, v;
    size_t padded_k() const { return padded(k); }
    size_t padded_v() const { return padded(v); }
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
};

// Scratch memory of one lane, in floats.
struct AttentionScratch {
    HeadSizes head;
    size_t rows; // of an item, at most

    size_t q_floats() const { return rows * head.padded_k(); }
    size_t out_floats() const { return rows * head.padded_v(); }
    size_t score_floats() const { return rows * key_tile; }
    size_t state_floats() const { return round_up(2 * rows, width); }
    size_t key_floats() const { return key_tile * head.padded_k(); }
    size_t value_floats() const { return key_tile * head.padded_v(); }
    size_t floats() const {
        return q_floats() + out_floats() + score_floats() + state_floats() + key_floats() + value_floats();
    }
};

namespace detail {
template <size_t from, size_t... I> vf interleave(vf a, vf b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (I % 2 * width + from + I / 2)...);
}
} // namespace detail

// One item being computed.
template <class T> class Attend {
public:
    // k_last and v_last: strides between a row's elements.
    Attend(const AttentionScratch &layout, float *scratch, const Queries<T> &queries, ptrdiff_t k_last,
           ptrdiff_t v_last)
        : head_(layout.head), queries_(queries), rows_(queries.rows()), packed_(rows_ > few_query_rows),
          k_last_(k_last), v_last_(v_last) {
        q_ = scratch;
        out_ = q_ + layout.q_floats();
        scores_ = out_ + layout.out_floats();
        max_ = scores_ + layout.score_floats();
        sum_ = max_ + layout.rows;
        keys_ = max_ + layout.state_floats();
        values_ = keys_ + layout.key_floats();
    }

    // Over keys [begin, end); locate(t, count, k, v) says where keys and values t … t + count - 1 lie.
    template <class Locate> void run(size_t begin, size_t end, Locate &&locate) {
        start();
        for (size_t t = begin; t < end; t += key_tile) {
            const size_t count = std::min(key_tile, end - t);
            const T *k[key_tile], *v[key_tile];
            locate(t, count, k, v);
            std::fill_n(scores_, rows_ * key_tile, 0.0f);
            packed_ ? packed_scores(k, count) : direct_scores(k, count);
            softmax(t, count);
            packed_ ? packed_values(v, count) : direct_values(v, count);
        }
        if (split_pairs<T> && !packed_) {
            join_pairs();
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
                const float factor = part[1] == 0.0f ? 0.0f : exp(splat<vf>(part[0] - max_[r]))[0];
                sum_[r] += part[1] * factor;
                for (size_t d = 0; d < head_.padded_v(); d += width) {
                    store(out + d, load(out + d) + load(part + width + d) * factor);
                }
            }
        }
    }

private:
    void start() {
        for (size_t r = 0; r < rows_; r++) {
            const T *src = queries_.q + ptrdiff_t(r / queries_.heads) * queries_.q_token +
                           ptrdiff_t(r % queries_.heads) * queries_.q_head;
            float *dst = q_ + r * head_.padded_k();
            packed_ ? expand_row<float>(dst, src, queries_.q_last, head_.k)
                    : expand_row<T>(dst, src, queries_.q_last, head_.k);
        }
        std::fill_n(out_, rows_ * head_.padded_v(), 0.0f);
        std::fill_n(max_, rows_, no_score);
        std::fill_n(sum_, rows_, 0.0f);
    }

    // Makes the elements of a tile's rows neighbours, in `copy`.
    static void gather(const T **rows, size_t count, ptrdiff_t stride, size_t n, T *copy) {
        for (size_t i = 0; i < count; i++, copy += n) {
            for (size_t d = 0; d < n; d++) {
                copy[d] = rows[i][ptrdiff_t(d) * stride];
            }
            rows[i] = copy;
        }
    }

    void direct_scores(const T **k, size_t count) {
        if (k_last_ != 1) {
            gather(k, count, k_last_, head_.k, reinterpret_cast<T *>(keys_));
        }
        dot_many(k, count, q_, head_.padded_k(), rows_, head_.k, scores_, key_tile);
    }

    void packed_scores(const T **k, size_t count) {
        for (size_t column = 0; column < count; column += tile_columns) {
            const size_t columns = std::min(tile_columns, count - column);
            if (k_last_ == 1) {
                pack_rows<tile_columns>(keys_, [&](size_t i) { return k[column + i]; }, columns, head_.k);
            } else {
                pack_strided(k + column, columns);
            }
            multiply(head_.k, q_, head_.padded_k(), keys_, tile_columns, scores_ + column, key_tile);
        }
    }

    void pack_strided(const T **k, size_t columns) {
        std::fill_n(keys_, head_.k * tile_columns, 0.0f);
        for (size_t i = 0; i < columns; i++) {
            for (size_t d = 0; d < head_.k; d++) {
                keys_[d * tile_columns + i] = get(k[i][ptrdiff_t(d) * k_last_]);
            }
        }
    }

    // c[rows][tile_columns] += a[rows][depth] * b[depth][tile_columns]
    void multiply(size_t depth, const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc) const {
        for (size_t r = 0; r < rows_; r += tile_rows) {
            with_count<tile_rows>(std::min(tile_rows, rows_ - r), [&](auto count) {
                multiply_tile<decltype(count)::value>(depth, a + r * lda, lda, 1, b, ldb, c + r * ldc, ldc);
            });
        }
    }

    // Scores become weights; maxima, sums and outputs follow.
    void softmax(size_t t, size_t count) {
        for (size_t r = 0; r < rows_; r++) {
            const int64_t seen = queries_.limit_of(r) - int64_t(t);
            const size_t visible = seen <= 0 ? 0 : std::min(count, size_t(seen));
            float *s = scores_ + r * key_tile;
            const float top = std::max(max_[r], scale_row(s, visible, r, t));
            const float factor = max_[r] == top || sum_[r] == 0.0f ? 1.0f : exp(splat<vf>(max_[r] - top))[0];
            vf total = {};
            for (size_t i = 0; i < key_tile; i += width) {
                const vf e = i < visible ? exp(load(s + i) - top) : vf{};
                const vf weight = lane_index(i) < int32_t(visible) ? e : vf{};
                store(s + i, weight);
                total += weight;
            }
            sum_[r] = sum_[r] * factor + sum(total);
            max_[r] = top;
            if (factor != 1.0f) {
                float *out = out_ + r * head_.padded_v();
                for (size_t d = 0; d < head_.padded_v(); d += width) {
                    store(out + d, load(out + d) * factor);
                }
            }
        }
    }

    static vi lane_index(size_t i) { return detail::lane_numbers<vf>() + int32_t(i); }

    // s = s * scale + bias over the visible keys; returns their maximum.
    float scale_row(float *s, size_t visible, size_t r, size_t t) const {
        const float slope = queries_.slopes ? queries_.slopes[r % queries_.heads] : 0.0f;
        const float first = float(int64_t(t) - (queries_.limit_of(r) - 1)); // distance to the newest visible key
        vf top = splat<vf>(no_score);
        for (size_t i = 0; i < visible; i += width) {
            vf v = load(s + i) * queries_.scale;
            if (slope != 0.0f) {
                v += (__builtin_convertvector(lane_index(i), vf) + first) * slope;
            }
            store(s + i, v);
            top = max(top, (vf)(lane_index(i) < int32_t(visible) ? v : splat<vf>(no_score)));
        }
        return max_lane(top);
    }

    void packed_values(const T **v, size_t count) {
        const size_t dv = head_.padded_v();
        for (size_t i = 0; i < count; i++) {
            expand_row<float>(values_ + i * dv, v[i], v_last_, head_.v);
        }
        for (size_t d = 0; d < dv; d += tile_columns) {
            multiply(count, scores_, key_tile, values_ + d, dv, out_ + d, dv);
        }
    }

    // Rows of values are read in place, chunk by chunk, in T's order.
    void direct_values(const T **v, size_t count) {
        if (v_last_ != 1) {
            gather(v, count, v_last_, head_.v, reinterpret_cast<T *>(values_));
        }
        const size_t whole = head_.v / chunk;
        for (size_t r = 0; r < rows_;) {
            const size_t step = rows_ - r >= 4 ? 4 : rows_ - r >= 2 ? 2 : 1;
            for (size_t c = 0; c < whole;) {
                const size_t chunks = step == 1 && whole - c >= 4 ? 4 : step <= 2 && whole - c >= 2 ? 2 : 1;
                add_values(v, count, r, step, c, chunks);
                c += chunks;
            }
            r += step;
        }
        if (whole * chunk < head_.v) {
            add_rest(v, count, whole);
        }
    }

    void add_values(const T **v, size_t count, size_t row, size_t rows, size_t at, size_t chunks) {
        switch (rows * 8 + chunks) {
        case 8 + 4:
            return add_chunks<1, 4>(v, count, row, at);
        case 8 + 2:
            return add_chunks<1, 2>(v, count, row, at);
        case 8 + 1:
            return add_chunks<1, 1>(v, count, row, at);
        case 16 + 2:
            return add_chunks<2, 2>(v, count, row, at);
        case 16 + 1:
            return add_chunks<2, 1>(v, count, row, at);
        default:
            return add_chunks<4, 1>(v, count, row, at);
        }
    }

    template <size_t R, size_t C> void add_chunks(const T **v, size_t count, size_t row, size_t at) {
        const size_t dv = head_.padded_v();
        float *out = out_ + row * dv + at * chunk;
        const float *weights = scores_ + row * key_tile;
        vf acc[R][2 * C];
#pragma GCC unroll 4
        for (size_t r = 0; r < R; r++) {
#pragma GCC unroll 8
            for (size_t c = 0; c < 2 * C; c++) {
                acc[r][c] = load(out + r * dv + c * width);
            }
        }
        for (size_t i = 0; i < count; i++) {
            const T *p = v[i] + at * chunk;
#pragma GCC unroll 4
            for (size_t c = 0; c < C; c++) {
                const vf low = load_half<0>(p + c * chunk), high = load_half<1>(p + c * chunk);
#pragma GCC unroll 4
                for (size_t r = 0; r < R; r++) {
                    const float weight = weights[r * key_tile + i];
                    acc[r][2 * c] += low * weight;
                    acc[r][2 * c + 1] += high * weight;
                }
            }
        }
#pragma GCC unroll 4
        for (size_t r = 0; r < R; r++) {
#pragma GCC unroll 8
            for (size_t c = 0; c < 2 * C; c++) {
                store(out + r * dv + c * width, acc[r][c]);
            }
        }
    }

    // The last, partial chunk of each row.
    void add_rest(const T **v, size_t count, size_t at) {
        const size_t dv = head_.padded_v(), n = head_.v - at * chunk;
        for (size_t i = 0; i < count; i++) {
            T rest[chunk] = {};
            std::memcpy(rest, v[i] + at * chunk, n * sizeof(T));
            const vf low = load_half<0>(rest), high = load_half<1>(rest);
            for (size_t r = 0; r < rows_; r++) {
                float *out = out_ + r * dv + at * chunk;
                const float weight = scores_[r * key_tile + i];
                store(out, load(out) + low * weight);
                store(out + width, load(out + width) + high * weight);
            }
        }
    }

    // From T's chunk order to plain order.
    void join_pairs() {
        for (float *p = out_; p < out_ + rows_ * head_.padded_v(); p += chunk) {
            const vf even = load(p), odd = load(p + width);
            store(p, detail::interleave<0>(even, odd, std::make_index_sequence<width>()));
            store(p + width, detail::interleave<width / 2>(even, odd, std::make_index_sequence<width>()));
        }
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
    bool packed_;
    ptrdiff_t k_last_, v_last_;
    float *q_, *out_, *scores_, *max_, *sum_, *keys_, *values_;
};

// ---- all items of an operator ---------------------------------------------------------------------------------------

// Neighbouring tokens of one sequence.
struct TokenTile {
    size_t sequence, token, tokens;
};

class AttentionPlan {
public:
    AttentionPlan() = default;
    // tokens, keys: of a sequence, at most
    AttentionPlan(size_t sequences, size_t heads, size_t kv_heads, HeadSizes head, size_t tokens, size_t keys)
        : kv_heads_(kv_heads), group_(kv_heads ? heads / kv_heads : 0), lanes_(thread_count()) {
        heads_ = std::clamp<size_t>(group_, 1, max_query_rows);
        tile_tokens = std::clamp<size_t>(max_query_rows / heads_, 1, std::max<size_t>(tokens, 1));
        scratch_ = {head, heads_ * tile_tokens};
        items_ = sequences * kv_heads_ * head_chunks();
        if (tokens <= tile_tokens && items_ > 0) {
            splits_ = std::min(std::clamp<size_t>(split_items / items_, 1, max_splits),
                               std::max<size_t>(keys / split_keys, 1));
        }
    }

    size_t tile_tokens = 1; // of a TokenTile, at most

    size_t workspace() const { return (lanes_ * lane_floats() + parts_floats()) * sizeof(float) + vector_bytes; }

    // Problem: tiles(), tile(i), queries(tile, head, heads), locate(sequence, kv_head), k_last, v_last; extra is added
    // to the denominator; rows that see no key stay as they are (keep_empty) or become 0.
    template <class T, class Problem>
    void run(void *workspace, const Problem &problem, float extra, bool keep_empty) const {
        float *scratch = reinterpret_cast<float *>(round_up(reinterpret_cast<uintptr_t>(workspace), vector_bytes));
        float *parts = scratch + lanes_ * lane_floats();
        const size_t items = problem.tiles() * kv_heads_ * head_chunks();
        std::atomic<bool> divided{false};
        for_tasks(items * splits_, lanes_, [&](size_t lane, size_t task) {
            const Item<T> item = make_item<T>(problem, task / splits_);
            const size_t split = task % splits_;
            if (split >= item.splits) {
                return;
            }
            Attend<T> attend(scratch_, scratch + lane * lane_floats(), item.queries, problem.k_last, problem.v_last);
            const size_t begin = std::min(split * item.piece, item.keys), end = std::min(begin + item.piece, item.keys);
            attend.run(begin, end, problem.locate(item.sequence, item.kv_head));
            if (item.splits == 1) {
                attend.write(extra, keep_empty);
            } else {
                attend.write_part(parts + task * item_floats());
                divided.store(true, std::memory_order_relaxed);
            }
        });
        if (!divided.load(std::memory_order_relaxed)) {
            return;
        }
        for_tasks(items, lanes_, [&](size_t lane, size_t task) {
            const Item<T> item = make_item<T>(problem, task);
            if (item.splits > 1) {
                Attend<T> attend(scratch_, scratch + lane * lane_floats(), item.queries, problem.k_last,
                                 problem.v_last);
                attend.merge(parts + task * splits_ * item_floats(), item.splits, item_floats());
                attend.write(extra, keep_empty);
            }
        });
    }

private:
    // A long context is split when there are few items; by shape and length alone, never by the threads.
    static constexpr size_t split_items = 256, max_splits = 64, split_keys = 256;

    template <class T> struct Item {
        Queries<T> queries;
        size_t sequence, kv_head, keys;
        size_t splits, piece; // pieces of the keys, and their length
    };

    size_t head_chunks() const { return div_up(group_, heads_); }
    size_t lane_floats() const { return round_up(scratch_.floats(), width); }
    size_t item_floats() const { return scratch_.rows * (scratch_.head.padded_v() + width); }
    size_t parts_floats() const { return splits_ > 1 ? items_ * splits_ * item_floats() : 0; }

    // The last tiles see the most keys: they come first.
    template <class T, class Problem> Item<T> make_item(const Problem &problem, size_t i) const {
        const size_t chunks = head_chunks(), per_tile = kv_heads_ * chunks;
        const TokenTile tile = problem.tile(problem.tiles() - 1 - i / per_tile);
        const size_t kv_head = i % per_tile / chunks, from = i % chunks * heads_;
        Item<T> item{};
        item.queries = problem.queries(tile, kv_head * group_ + from, std::min(heads_, group_ - from));
        item.sequence = tile.sequence;
        item.kv_head = kv_head;
        item.keys = size_t(std::max<int64_t>(item.queries.last_limit(), 0));
        const size_t pieces = std::clamp<size_t>(item.keys / split_keys, 1, splits_);
        item.piece = std::max(round_up(div_up(item.keys, pieces), key_tile), key_tile);
        item.splits = std::max<size_t>(div_up(item.keys, item.piece), 1);
        return item;
    }

    size_t kv_heads_ = 0, group_ = 0, heads_ = 1, lanes_ = 1, items_ = 0, splits_ = 1;
    AttentionScratch scratch_{};
};

} // namespace infiniop::cpu
