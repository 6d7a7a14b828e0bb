// The two products of attention over a tile of keys, scores = q kᵀ and out += weights v. They run in f32 or, where the
// machine multiplies pairs of bf16, on bf16 operands with f32 sums.
#pragma once

#include "tile.h"

namespace infiniop::cpu {

constexpr size_t key_tile = 64;               // keys at a time
constexpr size_t few_query_rows = 8;          // up to here keys are read in place; above, they are packed first
constexpr size_t column_block = tile_columns; // elements that are worked on together: two vectors of f32
constexpr size_t weight_row = 2 * key_tile;   // bf16 weights lie in the memory of their f32 scores

inline size_t padded_head(size_t d) { return round_up(d, column_block); }

// Queries, weights and packed keys and values are held as panel_t<T>: pairs of bf16 where it is bf16, else f32.
template <class T> constexpr bool in_pairs = std::is_same_v<panel_t<T>, bf16>;

#if defined(__AVX512BF16__)
inline vf narrow_pairs(vf low, vf high) { return (vf)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low); }
#else
vf narrow_pairs(vf low, vf high); // nowhere used
#endif

// Elements between two rows of weights.
template <class T> constexpr size_t weight_stride = in_pairs<T> ? weight_row : key_tile;

// bf16 values that are widened in place are split by a shift and a mask: even elements of a block, then odd ones.
template <class T> constexpr bool in_halves = std::is_same_v<T, bf16> && !in_pairs<T>;

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

typedef uint16_t Halfwords __attribute__((vector_size(vector_bytes)));

// Pairs (a[i], b[i]) of each 128 bits' lower (from = 0) or upper (from = 4) half.
template <size_t from, size_t... I> vf pair_up(vf a, vf b, std::index_sequence<I...>) {
    constexpr size_t n = sizeof...(I);
    return (vf)__builtin_shufflevector((Halfwords)a, (Halfwords)b, (I / 8 * 8 + from + I % 8 / 2 + I % 2 * n)...);
}
template <size_t from> vf pair_up(vf a, vf b) {
    return pair_up<from>(a, b, std::make_index_sequence<vector_bytes / 2>());
}

// The columns [from, from + width) of a block from its two sums.
template <class T, size_t from, size_t... I> vf ordered_columns(vf a, vf b, std::index_sequence<I...>) {
    if constexpr (in_pairs<T>) {
        return __builtin_shufflevector(a, b, ((from + I) / 8 * 4 + I % 4 + (I % 8 < 4 ? 0 : width))...);
    } else {
        return __builtin_shufflevector(a, b, ((from + I) / 2 + I % 2 * width)...);
    }
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

// Sums that are kept for values in place, or packed pairs, have their own order within a block: this makes it plain.
template <class T> void order_columns(float *p) {
    constexpr auto all = std::make_index_sequence<width>();
    const vf a = load(p), b = load(p + width);
    store(p, detail::ordered_columns<T, 0>(a, b, all));
    store(p + width, detail::ordered_columns<T, width>(a, b, all));
}

// dst[padded_head(k)]: a query. in_place: in the order of keys that are read in place.
template <class T> void copy_query(panel_t<T> *dst, const T *src, ptrdiff_t stride, size_t k, bool in_place) {
    std::fill_n(dst, padded_head(k), panel_t<T>{});
    if (stride == 1 && !(in_halves<T> && in_place)) {
        if constexpr (in_pairs<T>) {
            std::memcpy(dst, src, k * sizeof(T));
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
            dst[in_halves<T> && in_place ? i - at + at % 2 * width + at / 2 : i] = get(x);
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

template <class T> void prefetch_row(const T *row, size_t n) {
    const char *p = reinterpret_cast<const char *>(row);
    for (size_t i = 0; i < n * sizeof(T); i += 64) {
        __builtin_prefetch(p + i, 0, 2); // into L2
    }
}

// out[R][C blocks from `column` on] += weights[R][count] v. With Part: the n columns of a last, partial block.
template <class T, size_t R, size_t C, class Part = All>
void add_values(const T *const *v, const T *const *next, size_t count, const panel_t<T> *weights, size_t column,
                float *out, size_t ldo, Part part = {}) {
    vf sums[R][2 * C];
#pragma GCC unroll 8
    for (size_t r = 0; r < R; r++) {
#pragma GCC unroll 8
        for (size_t c = 0; c < 2 * C; c++) {
            sums[r][c] = load(out + r * ldo + column + c * width);
        }
    }
    T rest[2][column_block] = {};
    const auto row = [&](size_t i, size_t which) -> const T * {
        if constexpr (std::is_same_v<Part, All>) {
            return v[i] + column;
        } else {
            std::memcpy(rest[which], v[i] + column, part.n * sizeof(T));
            return rest[which];
        }
    };
    const auto step = [&](size_t i, const T *first, const T *second) {
        if constexpr (in_pairs<T>) {
            vf pairs[R];
#pragma GCC unroll 8
            for (size_t r = 0; r < R; r++) {
                pairs[r] = splat_word(weights + r * weight_stride<T> + i);
            }
#pragma GCC unroll 8
            for (size_t c = 0; c < C; c++) {
                const vf a = load_words(first + c * column_block);
                const vf b = second ? load_words(second + c * column_block) : vf{};
                const vf low = pair_up<0>(a, b), high = pair_up<4>(a, b);
#pragma GCC unroll 8
                for (size_t r = 0; r < R; r++) {
                    sums[r][2 * c] = multiply_add(sums[r][2 * c], pairs[r], low, panel_t<T>{});
                    sums[r][2 * c + 1] = multiply_add(sums[r][2 * c + 1], pairs[r], high, panel_t<T>{});
                }
            }
        } else {
#pragma GCC unroll 8
            for (size_t c = 0; c < C; c++) {
                const vf low = block_half<0>(first + c * column_block), high = block_half<1>(first + c * column_block);
#pragma GCC unroll 8
                for (size_t r = 0; r < R; r++) {
                    const float weight = weights[r * weight_stride<T> + i];
                    sums[r][2 * c] += low * weight;
                    sums[r][2 * c + 1] += high * weight;
                }
            }
        }
    };
    size_t i = 0;
    constexpr size_t at_once = in_pairs<T> ? 2 : 1;
    for (; i + at_once <= count; i += at_once) {
        for (size_t u = 0; u < at_once; u++) {
            prefetch_row(next[i + u] + column, std::is_same_v<Part, All> ? C * column_block : 1);
        }
        step(i, row(i, 0), in_pairs<T> ? row(i + 1, 1) : nullptr);
    }
    if (i < count) {
        step(i, row(i, 0), nullptr);
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
void add_columns(const T *const *v, const T *const *next, size_t count, const panel_t<T> *weights, size_t column,
                 size_t dv, float *out, size_t ldo) {
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

// scores[rows][count] = q kᵀ; both k and next (keys of the next tile, fetched meanwhile) point at key_tile rows.
template <class T>
void score_few(const T *const *k, const T *const *next, size_t count, const panel_t<T> *q, size_t ldq, size_t rows,
               size_t d, float *scores) {
    with_count<few_query_rows>(rows, [&](auto number) {
        constexpr size_t X = decltype(number)::value, R = detail::keys_at_once(X);
        for (size_t i = 0; i < count; i += R) {
            for (size_t r = 0; r < R; r++) {
                detail::prefetch_row(next[i + r], d);
            }
            d % column_block ? detail::dot_keys<T, R, X, true>(k + i, q, ldq, d, scores + i)
                             : detail::dot_keys<T, R, X, false>(k + i, q, ldq, d, scores + i);
        }
    });
}

// out[rows][dv] += weights[rows][count] v, in the order that order_columns undoes.
template <class T>
void weigh_few(const T *const *v, const T *const *next, size_t count, const panel_t<T> *weights, size_t rows, size_t dv,
               float *out, size_t ldo) {
    constexpr size_t most = detail::sums_at_once / 2;
    for (size_t r = 0; r < rows;) {
        const size_t left = rows - r, step = most >= 8 && left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        const auto pass = [&](auto number) {
            constexpr size_t R = decltype(number)::value;
            detail::add_columns<T, R, std::min<size_t>(most / R, 4)>(v, next, count, weights + r * weight_stride<T>, 0,
                                                                     dv, out + r * ldo, ldo);
        };
        if constexpr (most >= 8) {
            if (step == 8) {
                pass(Count<8>{});
            }
        }
        if (step == 4) {
            pass(Count<4>{});
        } else if (step == 2) {
            pass(Count<2>{});
        } else if (step == 1) {
            pass(Count<1>{});
        }
        r += step;
    }
}

// ---- many query rows: keys and values packed ---------------------------------------------------------------------

// values[count][padded_head(dv)], or [count / 2] rows of pairs.
template <class T> void pack_values(panel_t<T> *values, const T *const *v, size_t count, size_t dv) {
    const size_t ld = padded_head(dv);
    if constexpr (in_pairs<T>) {
        for (size_t i = 0; i < count; i += 2, values += 2 * ld) {
            for (size_t d = 0; d < dv; d += column_block) {
                vf rows[2] = {};
                for (size_t u = 0; u < 2 && i + u < count; u++) {
                    if (d + column_block <= dv) {
                        rows[u] = detail::load_words(v[i + u] + d);
                    } else {
                        std::memcpy(&rows[u], v[i + u] + d, (dv - d) * sizeof(T));
                    }
                }
                const vf low = detail::pair_up<0>(rows[0], rows[1]), high = detail::pair_up<4>(rows[0], rows[1]);
                std::memcpy(values + 2 * d, &low, sizeof(low));
                std::memcpy(values + 2 * d + column_block, &high, sizeof(high));
            }
        }
    } else {
        for (size_t i = 0; i < count; i++, values += ld) {
            for_vectors<width>(dv, [&](size_t d, auto part) { store(values + d, load(v[i] + d, part)); });
        }
    }
}

// c[rows][tile_columns] += a[rows][depth] * b[depth][tile_columns], b packed; lda in elements, ldb in words.
template <class P>
void multiply_rows(size_t rows, size_t depth, const P *a, size_t lda, const P *b, size_t ldb, float *c, size_t ldc) {
    constexpr size_t e = word_elements<P>;
    for (size_t r = 0; r < rows; r += tile_rows) {
        with_count<tile_rows>(std::min(tile_rows, rows - r), [&](auto count) {
            multiply_tile<decltype(count)::value>(div_up(depth, e), a + r * lda, lda / e, 1, b, ldb, c + r * ldc, ldc);
        });
    }
}

} // namespace infiniop::cpu
