// The two products of attention over a tile of keys, scores = q kᵀ and out += weights v. Scores come from f32 operands
// or, where the machine multiplies pairs of bf16, from those; weights stay f32: rounded to bf16 they would put out off
// by 2^-9 of the largest values, whatever is left of these in the sum.
#pragma once

#include "tile.h"

namespace infiniop::cpu {

constexpr size_t key_tile = 64;               // keys at a time
constexpr size_t few_query_rows = 8;          // up to here keys and values are read in place; above, they are packed
constexpr size_t rows_of_dots = 4;            // up to here, scores are dot products of rows as they lie
constexpr size_t column_block = tile_columns; // elements that are worked on together: two vectors of f32

inline size_t padded_head(size_t d) { return round_up(d, column_block); }

// bf16 that is widened in place is taken apart by a shift and a mask: even elements of a block, then odd ones.
template <class T> constexpr bool in_halves = std::is_same_v<T, bf16>;

// Queries and packed keys are held as panel_t<T>: pairs of bf16 where the machine multiplies those, else f32.
template <class T> constexpr bool in_pairs = std::is_same_v<panel_t<T>, bf16>;

namespace detail {

// A vector of a block, widened.
template <size_t half, class T> vf block_half(const T *p) {
    if constexpr (in_halves<T>) {
        const vu words = bit_cast<vu>(load_bits<vf>(p, All{}));
        return bit_cast<vf>((vu)(half == 0 ? words << 16 : words & 0xffff0000u));
    } else {
        return load(p + half * width);
    }
}

// The columns [from, from + width) of a block from its even and its odd ones.
template <size_t from, size_t... I> vf ordered_columns(vf even, vf odd, std::index_sequence<I...>) {
    return __builtin_shufflevector(even, odd, ((from + I) / 2 + I % 2 * width)...);
}

struct Sum {
    static vf of(vf a, vf b) { return a + b; }
};
struct Maximum {
    static vf of(vf a, vf b) { return max(a, b); }
};

template <class Op, size_t S, size_t... I> vf fold(vf a, vf b, std::index_sequence<I...>) {
    return Op::of(__builtin_shufflevector(a, b, ((I & S) ? width + I - S : I)...),
                  __builtin_shufflevector(a, b, ((I & S) ? width + I : I + S)...));
}

template <class Op, size_t S, size_t i> [[gnu::always_inline]] inline vf fold_all(const vf *v) {
    if constexpr (S == width) {
        return v[i];
    } else {
        return fold<Op, S>(fold_all<Op, 2 * S, i>(v), fold_all<Op, 2 * S, i + S>(v), std::make_index_sequence<width>());
    }
}

} // namespace detail

// Lane i: the sum, or the maximum, of v[i]'s lanes.
template <class Op> [[gnu::always_inline]] inline vf across_lanes(const vf *v) { return detail::fold_all<Op, 1, 0>(v); }

// Sums over values that were taken in halves: makes the order within a block plain.
inline void order_columns(float *p) {
    constexpr auto all = std::make_index_sequence<width>();
    const vf even = load(p), odd = load(p + width);
    store(p, detail::ordered_columns<0>(even, odd, all));
    store(p + width, detail::ordered_columns<width>(even, odd, all));
}

// dst[padded_head(k)]: a query. for_dots: in the order that dot products of rows as they lie take.
template <class T> void copy_query(panel_t<T> *dst, const T *src, ptrdiff_t stride, size_t k, bool for_dots) {
    const bool halves = in_halves<T> && !in_pairs<T> && for_dots;
    std::fill_n(dst, padded_head(k), panel_t<T>{});
    if (stride == 1 && !halves) {
        if constexpr (in_pairs<T>) {
            std::copy_n(src, k, dst);
        } else {
            for_vectors<width>(k, [&](size_t i, auto part) { store(dst + i, load(src + i, part), part); });
        }
        return;
    }
    for (size_t i = 0; i < k; i++) {
        const T x = src[ptrdiff_t(i) * stride];
        if constexpr (in_pairs<T>) {
            dst[i] = x;
        } else {
            const size_t at = i % column_block;
            dst[halves ? i - at + at % 2 * width + at / 2 : i] = get(x);
        }
    }
}

// ---- few query rows: keys and values in place --------------------------------------------------------------------

namespace detail {

constexpr size_t sums_at_once = vector_bytes == 64 ? 16 : 8; // they stay in registers

// Keys at a time for X query rows; divides key_tile.
constexpr size_t keys_at_once(size_t X) {
    size_t n = sums_at_once;
    while (n * X > sums_at_once) {
        n /= 2;
    }
    return n;
}

template <class T, size_t R, size_t X>
void dot_block(vf *sums, const T *const *k, size_t i, const panel_t<T> *q, size_t ldq) {
    if constexpr (in_pairs<T>) {
        vf rows[R];
#pragma GCC unroll 16
        for (size_t r = 0; r < R; r++) {
            rows[r] = load_words(k[r] + i);
        }
#pragma GCC unroll 8
        for (size_t x = 0; x < X; x++) {
            const vf query = load_words(q + x * ldq);
#pragma GCC unroll 16
            for (size_t r = 0; r < R; r++) {
                sums[x * R + r] = multiply_add(sums[x * R + r], rows[r], query, panel_t<T>{});
            }
        }
    } else {
#pragma GCC unroll 16
        for (size_t r = 0; r < R; r++) {
            const vf low = block_half<0>(k[r] + i), high = block_half<1>(k[r] + i);
#pragma GCC unroll 8
            for (size_t x = 0; x < X; x++) {
                sums[x * R + r] += low * load(q + x * ldq);
                sums[x * R + r] += high * load(q + x * ldq + width);
            }
        }
    }
}

// scores[x][r] of R keys. rest: elements of a last, partial block.
template <class T, size_t R, size_t X, bool rest>
void dot_keys(const T *const *k, const panel_t<T> *q, size_t ldq, size_t d, float *scores) {
    vf sums[sums_at_once];
    clear(sums);
    const T *rows[R];
    for (size_t r = 0; r < R; r++) {
        rows[r] = k[r];
    }
    size_t i = 0;
    for (; i + column_block <= d; i += column_block) {
        dot_block<T, R, X>(sums, rows, i, q + i, ldq);
    }
    if constexpr (rest) {
        T padded[R][column_block] = {};
        for (size_t r = 0; r < R; r++) {
            std::memcpy(padded[r], rows[r] + i, (d - i) * sizeof(T));
            rows[r] = padded[r];
        }
        dot_block<T, R, X>(sums, rows, 0, q + i, ldq);
    }
    float totals[sums_at_once];
#pragma GCC unroll 2
    for (size_t g = 0; g < sums_at_once; g += width) {
        store(totals + g, across_lanes<Sum>(sums + g));
    }
#pragma GCC unroll 8
    for (size_t x = 0; x < X; x++) {
        std::memcpy(scores + x * key_tile, totals + x * R, R * sizeof(float));
    }
}

// Words of a row: f32, f16 widened, or two bf16.
template <class T> constexpr size_t row_word = std::is_same_v<T, bf16> ? 2 : 1;
template <class T> vf row_words(const T *p) {
    if constexpr (std::is_same_v<T, bf16>) {
        return load_bits<vf>(p, All{});
    } else {
        return load(p);
    }
}

// sums[x] += words of `width` keys * a query's word.
template <class T, size_t X>
[[gnu::always_inline]] inline void add_products(vf (&sums)[X], vf words, const panel_t<T> *q, size_t ldq) {
    if constexpr (in_pairs<T>) {
#pragma GCC unroll 8
        for (size_t x = 0; x < X; x++) {
            sums[x] = multiply_add(sums[x], words, splat_word(q + x * ldq), panel_t<T>{});
        }
    } else if constexpr (in_halves<T>) {
        const vf low = bit_cast<vf>((vu)(bit_cast<vu>(words) << 16));
        const vf high = bit_cast<vf>((vu)(bit_cast<vu>(words) & 0xffff0000u));
#pragma GCC unroll 8
        for (size_t x = 0; x < X; x++) {
            sums[x] += low * q[x * ldq];
            sums[x] += high * q[x * ldq + 1];
        }
    } else {
#pragma GCC unroll 8
        for (size_t x = 0; x < X; x++) {
            sums[x] += words * q[x * ldq];
        }
    }
}

// scores[X][width] of `width` keys, a lane for each: with many rows that is cheaper than to add up across lanes.
template <class T, size_t X>
void score_lanes(const T *const *k, const T *const *next, const panel_t<T> *q, size_t ldq, size_t d, float *scores) {
    constexpr size_t e = row_word<T>, block = e * width;
    vf sums[X];
    clear(sums);
    for (size_t i = 0; i < d; i += block) {
        const T *rows[width];
        T rest[width][block];
        for (size_t r = 0; r < width; r++) {
            rows[r] = k[r] + i;
            if (d - i < block) {
                std::fill_n(rest[r], block, T{});
                std::memcpy(rest[r], rows[r], (d - i) * sizeof(T));
                rows[r] = rest[r];
            }
        }
        vf words[width];
#pragma GCC unroll 16
        for (size_t r = 0; r < width; r++) {
            words[r] = row_words(rows[r]);
            if (i * sizeof(T) % 64 == 0) {
                __builtin_prefetch(next[r] + i, 0, 2);
            }
        }
        transpose(words);
#pragma GCC unroll 16
        for (size_t j = 0; j < width; j++) {
            add_products<T>(sums, words[j], q + i + j * e, ldq);
        }
    }
#pragma GCC unroll 8
    for (size_t x = 0; x < X; x++) {
        store(scores + x * key_tile, sums[x]);
    }
}

template <class T> void prefetch_row(const T *row, size_t n) {
    const char *p = reinterpret_cast<const char *>(row);
    for (size_t i = 0; i < n * sizeof(T); i += 64) {
        __builtin_prefetch(p + i, 0, 2); // into L2
    }
}

// out[R][C blocks from `column` on] += weights[R][count] v. With Part: the n columns of a last, partial block.
template <class T, size_t R, size_t C, class Part = All>
void add_values(const T *const *v, const T *const *next, size_t count, const float *weights, size_t column, float *out,
                size_t ldo, Part part = {}) {
    vf sums[R][2 * C];
#pragma GCC unroll 8
    for (size_t r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (size_t c = 0; c < 2 * C; c++) {
            sums[r][c] = load(out + r * ldo + column + c * width);
        }
    }
    T rest[column_block] = {};
    for (size_t i = 0; i < count; i++) {
        prefetch_row(next[i] + column, std::is_same_v<Part, All> ? C * column_block : 1);
        const T *row = v[i] + column;
        if constexpr (!std::is_same_v<Part, All>) {
            std::memcpy(rest, row, part.n * sizeof(T));
            row = rest;
        }
#pragma GCC unroll 8
        for (size_t c = 0; c < C; c++) {
            const vf low = block_half<0>(row + c * column_block), high = block_half<1>(row + c * column_block);
#pragma GCC unroll 8
            for (size_t r = 0; r < R; r++) {
                const float weight = weights[r * key_tile + i];
                sums[r][2 * c] += low * weight;
                sums[r][2 * c + 1] += high * weight;
            }
        }
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (size_t c = 0; c < 2 * C; c++) {
            store(out + r * ldo + column + c * width, sums[r][c]);
        }
    }
}

// All columns for R rows, C blocks at a time, then fewer.
template <class T, size_t R, size_t C>
void add_columns(const T *const *v, const T *const *next, size_t count, const float *weights, size_t column, size_t dv,
                 float *out, size_t ldo) {
    for (; column + C * column_block <= dv; column += C * column_block) {
        add_values<T, R, C>(v, next, count, weights, column, out, ldo);
    }
    if constexpr (C > 1) {
        add_columns<T, R, C / 2>(v, next, count, weights, column, dv, out, ldo);
    } else if (column < dv) {
        add_values<T, R, 1>(v, next, count, weights, column, out, ldo, First{dv - column});
    }
}

} // namespace detail

// scores[rows][count] = q kᵀ; both k and next (keys that come next, fetched meanwhile) point at key_tile rows.
template <class T>
void score_few(const T *const *k, const T *const *next, size_t count, const panel_t<T> *q, size_t ldq, size_t rows,
               size_t d, float *scores) {
    with_count<few_query_rows>(rows, [&](auto number) {
        constexpr size_t X = decltype(number)::value;
        if constexpr (X > rows_of_dots) {
            for (size_t i = 0; i < count; i += width) {
                detail::score_lanes<T, X>(k + i, next + i, q, ldq, d, scores + i);
            }
        } else {
            constexpr size_t R = detail::keys_at_once(X);
            for (size_t i = 0; i < count; i += R) {
                for (size_t r = 0; r < R; r++) {
                    detail::prefetch_row(next[i + r], d);
                }
                d % column_block ? detail::dot_keys<T, R, X, true>(k + i, q, ldq, d, scores + i)
                                 : detail::dot_keys<T, R, X, false>(k + i, q, ldq, d, scores + i);
            }
        }
    });
}

// out[rows][dv] += weights[rows][count] v; of bf16 in the order that order_columns undoes.
template <class T>
void weigh_few(const T *const *v, const T *const *next, size_t count, const float *weights, size_t rows, size_t dv,
               float *out, size_t ldo) {
    constexpr size_t most = detail::sums_at_once / 2;
    for (size_t r = 0; r < rows; r += most) {
        with_count<most>(std::min(most, rows - r), [&](auto number) {
            constexpr size_t R = decltype(number)::value, blocks = most / R;
            constexpr size_t C = blocks >= 4 ? 4 : blocks >= 2 ? 2 : 1;
            detail::add_columns<T, R, C>(v, next, count, weights + r * key_tile, 0, dv, out + r * ldo, ldo);
        });
    }
}

// ---- many query rows: keys and values packed ---------------------------------------------------------------------

// c[rows][tile_columns] += a[rows][depth] * b[depth][tile_columns], b packed; lda in elements, ldb in words.
template <class P>
void multiply_rows(size_t rows, size_t depth, const P *a, size_t lda, const P *b, size_t ldb, float *c, size_t ldc) {
    constexpr size_t e = word_elements<P>;
    const size_t most = div_up(rows, div_up(rows, tile_rows)); // tiles of about the same height
    for (size_t r = 0; r < rows; r += most) {
        with_count<tile_rows>(std::min(most, rows - r), [&](auto count) {
            multiply_tile<decltype(count)::value>(div_up(depth, e), a + r * lda, lda / e, 1, b, ldb, c + r * ldc, ldc);
        });
    }
}

// scores[rows][count] = q kᵀ; packed: memory for tile_columns keys.
template <class T>
void score_many(const T *const *k, const T *const *next, size_t count, const panel_t<T> *q, size_t ldq, size_t rows,
                size_t d, panel_t<T> *packed, float *scores) {
    std::fill_n(scores, rows * key_tile, 0.0f);
    for (size_t i = 0; i < count; i += tile_columns) {
        const size_t keys = std::min(tile_columns, count - i);
        for (size_t r = 0; r < keys; r++) {
            detail::prefetch_row(next[i + r], d);
        }
        pack_rows<tile_columns>(packed, [&](size_t r) { return k[i + r]; }, keys, d);
        multiply_rows(rows, d, q, ldq, packed, tile_columns, scores + i, key_tile);
    }
}

// out[rows][padded_head(dv)] += weights[rows][count] v; packed: memory for count rows of out.
template <class T>
void weigh_many(const T *const *v, const T *const *next, size_t count, const float *weights, size_t rows, size_t dv,
                float *packed, float *out) {
    const size_t ld = padded_head(dv);
    for (size_t i = 0; i < count; i++) {
        detail::prefetch_row(next[i], dv);
        for_vectors<width>(dv, [&](size_t d, auto part) { store(packed + i * ld + d, load(v[i] + d, part)); });
    }
    for (size_t d = 0; d < ld; d += tile_columns) {
        multiply_rows(rows, count, weights, key_tile, packed + d, ld, out + d, ld);
    }
}

} // namespace infiniop::cpu
