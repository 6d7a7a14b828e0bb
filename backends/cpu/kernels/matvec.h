// Products of a few rows with a large matrix: every element of the matrix is read once, in its own type.
#pragma once

#include "pool.h"
#include "tile.h"

namespace infiniop::cpu {

// Rows that count as a few: from there on packing the matrix for a blocked product pays.
template <class T> constexpr size_t max_few = word_elements<panel_t<T>> == 2 ? 32 : 16;
inline size_t max_few_of(infiniDtype_t dtype) { return dtype == INFINI_DTYPE_BF16 ? max_few<bf16> : max_few<float>; }

// ---- the few rows: panel_t<T>, padded with zeros to chunks of two vectors -----------------------------------------

template <class T> constexpr size_t vector_elements = width * word_elements<panel_t<T>>;
template <class T> constexpr size_t chunk = 2 * vector_elements<T>;

// Where bf16 is widened, two neighbours are split by a shift and a mask: a chunk holds its even elements, then its odd
// ones.
template <class T> constexpr bool split_pairs = std::is_same_v<T, bf16>;

inline size_t chunk_of(infiniDtype_t dtype) { return dtype == INFINI_DTYPE_BF16 ? chunk<bf16> : chunk<float>; }

// An odd number of chunks, so that rows do not share the sets of a cache.
inline size_t padded(size_t k) { return (div_up(k, chunk<bf16>) | 1) * chunk<bf16>; }

// Position within its chunk of element i.
template <class T> constexpr size_t chunk_position(size_t i) { return split_pairs<T> ? i % 2 * width + i / 2 : i; }

// One half of a chunk.
template <size_t half, class T> vf load_half(const T *p) {
    if constexpr (split_pairs<T>) {
        vu bits;
        std::memcpy(&bits, p, sizeof(bits));
        return bit_cast<vf>((vu)(half == 0 ? bits << 16 : bits & 0xffff0000u));
    } else {
        return load(p + half * width);
    }
}

// dst[padded(k)] from k elements `stride` apart, in chunks of T's order.
template <class T, class S> void expand_row(float *dst, const S *src, ptrdiff_t stride, size_t k) {
    constexpr size_t step = 2 * width;
    if (!split_pairs<T> && stride == 1) {
        for_vectors<width>(k, [&](size_t i, auto part) { store(dst + i, load(src + i, part)); });
        std::fill(dst + k, dst + padded(k), 0.0f);
        return;
    }
    size_t i = 0;
    if constexpr (split_pairs<S> && split_pairs<T>) {
        for (; stride == 1 && i + step <= k; i += step) {
            store(dst + i, load_half<0>(src + i));
            store(dst + i + width, load_half<1>(src + i));
        }
    }
    std::fill(dst + i, dst + padded(k), 0.0f);
    for (; i < k; i++) {
        dst[i / step * step + chunk_position<T>(i % step)] = get(src[ptrdiff_t(i) * stride]);
    }
}

// Pairs of bf16 are multiplied as they lie.
template <class> void expand_row(bf16 *dst, const bf16 *src, ptrdiff_t stride, size_t k) {
    if (stride == 1) {
        std::copy_n(src, k, dst);
    } else {
        for (size_t i = 0; i < k; i++) {
            dst[i] = src[ptrdiff_t(i) * stride];
        }
    }
    std::fill(dst + k, dst + padded(k), bf16{});
}

// ---- matrix rows contiguous along k: dot products -----------------------------------------------------------------

// Sums of four vectors.
inline void add_sums(float *out, vf a, vf b, vf c, vf d) {
    typedef float V4 __attribute__((vector_size(16)));
    const auto fold = [](vf v) {
        V4 parts[width / 4];
        std::memcpy(parts, &v, sizeof(v));
        V4 s = parts[0];
        for (size_t i = 1; i < width / 4; i++) {
            s += parts[i];
        }
        return s;
    };
    const V4 p = fold(a), q = fold(b), r = fold(c), s = fold(d);
    const V4 pq = __builtin_shufflevector(p, q, 0, 4, 1, 5) + __builtin_shufflevector(p, q, 2, 6, 3, 7);
    const V4 rs = __builtin_shufflevector(r, s, 0, 4, 1, 5) + __builtin_shufflevector(r, s, 2, 6, 3, 7);
    V4 total;
    std::memcpy(&total, out, sizeof(total));
    total += __builtin_shufflevector(pq, rs, 0, 1, 4, 5) + __builtin_shufflevector(pq, rs, 2, 3, 6, 7);
    std::memcpy(out, &total, sizeof(total));
}

constexpr size_t dot_rows = 4;                             // matrix rows at a time
constexpr size_t dot_columns = vector_bytes == 64 ? 6 : 3; // of the few rows at a time

namespace detail {
template <class T, size_t R, size_t X, size_t half>
void dot_half(vf (&acc)[X][R], const T *const *w, const panel_t<T> *x, size_t ldx, size_t i) {
    using P = panel_t<T>;
    vf xs[X];
#pragma GCC unroll 8
    for (size_t j = 0; j < X; j++) {
        xs[j] = load_words(x + j * ldx + i + half * vector_elements<T>);
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < R; r++) {
        vf v;
        if constexpr (word_elements<P> == 2) {
            v = load_words(w[r] + i + half * vector_elements<T>);
        } else {
            v = load_half<half>(w[r] + i);
        }
#pragma GCC unroll 8
        for (size_t j = 0; j < X; j++) {
            acc[j][r] = multiply_add(acc[j][r], v, xs[j], P{});
        }
    }
}
} // namespace detail

// out[j * ldo + r] += sum over i < k of w[r][i] * x[j][i]; x in chunks of T's order, its rows ldx elements apart.
template <class T, size_t R, size_t X>
void dot(const T *const *rows, const panel_t<T> *x, size_t ldx, size_t k, float *out, size_t ldo) {
    constexpr bool twice = 2 * R * X <= (vector_bytes == 64 ? 24 : 8); // few sums: two of each hide the latency
    const T *w[R];
    for (size_t r = 0; r < R; r++) {
        w[r] = rows[r];
    }
    vf acc[X][R], other[X][R];
    clear(acc);
    clear(other);
    size_t i = 0;
    for (; i + chunk<T> <= k; i += chunk<T>) {
        detail::dot_half<T, R, X, 0>(acc, w, x, ldx, i);
        detail::dot_half<T, R, X, 1>(twice ? other : acc, w, x, ldx, i);
    }
    if (i < k) {
        T rest[R][chunk<T>] = {};
        const T *p[R];
        for (size_t r = 0; r < R; r++) {
            std::memcpy(rest[r], w[r] + i, (k - i) * sizeof(T));
            p[r] = rest[r];
        }
        detail::dot_half<T, R, X, 0>(acc, p, x + i, ldx, 0);
        detail::dot_half<T, R, X, 1>(twice ? other : acc, p, x + i, ldx, 0);
    }
#pragma GCC unroll 8
    for (size_t j = 0; j < X; j++) {
        if constexpr (twice) {
#pragma GCC unroll 8
            for (size_t r = 0; r < R; r++) {
                acc[j][r] += other[j][r];
            }
        }
        if constexpr (R == 4) {
            add_sums(out + j * ldo, acc[j][0], acc[j][1], acc[j][2], acc[j][3]);
        } else {
#pragma GCC unroll 8
            for (size_t r = 0; r < R; r++) {
                out[j * ldo + r] += sum(acc[j][r]);
            }
        }
    }
}

// out[j * ldo + r] += … for any numbers of matrix rows and of the few.
template <class T>
void dot_many(const T *const *w, size_t rows, const panel_t<T> *x, size_t ldx, size_t few, size_t k, float *out,
              size_t ldo) {
    const size_t groups = div_up(few, dot_columns);
    for (size_t r = 0; r < rows;) {
        const size_t step = r + dot_rows <= rows ? dot_rows : 1;
        for (size_t g = 0, j = 0; g < groups; g++) {
            const size_t end = few * (g + 1) / groups;
            with_count<dot_columns>(end - j, [&](auto count) {
                constexpr size_t X = decltype(count)::value;
                if (step == dot_rows) {
                    dot<T, dot_rows, X>(w + r, x + j * ldx, ldx, k, out + j * ldo + r, ldo);
                } else {
                    dot<T, 1, X>(w + r, x + j * ldx, ldx, k, out + j * ldo + r, ldo);
                }
            });
            j = end;
        }
        r += step;
    }
}

// out[few][count] of matrix rows [row, row + count), count <= dot_block: sums of w[row][i] * x[j][i].
constexpr size_t dot_block = 32;

template <class T>
void dot_product(const T *w, ptrdiff_t row_stride, size_t count, const panel_t<T> *x, size_t few, size_t k,
                 float *out) {
    // The few rows stay in L1 while a block of matrix rows passes by.
    constexpr size_t most = 131072 / sizeof(panel_t<T>);
    const size_t step = few <= dot_columns ? k : std::max(most / few / chunk<T> * chunk<T>, chunk<T>);
    std::fill_n(out, few * dot_block, 0.0f);
    for (size_t i = 0; i < k; i += step) {
        const T *rows[dot_block];
        for (size_t r = 0; r < count; r++) {
            rows[r] = w + ptrdiff_t(r) * row_stride + i;
        }
        dot_many(rows, count, x + i, padded(k), few, std::min(step, k - i), out, dot_block);
    }
}

// ---- one row of bf16 ------------------------------------------------------------------------------------------------

#if defined(__AVX512BF16__)
constexpr bool has_row_dot = true;

// The product of two rows of bf16; a matrix read row by row is one stream, which prefetchers follow best.
inline float row_dot(const bf16 *w, const bf16 *x, size_t k) {
    constexpr size_t step = 2 * width, sets = 8;
    vf acc[sets];
    clear(acc);
    const auto add = [&](size_t s, __m512i a, __m512i b) {
        acc[s] = (vf)_mm512_dpbf16_ps((__m512)acc[s], (__m512bh)a, (__m512bh)b);
    };
    size_t i = 0;
    for (; i + sets * step <= k; i += sets * step) {
#pragma GCC unroll 8
        for (size_t s = 0; s < sets; s++) {
            add(s, _mm512_loadu_si512(w + i + s * step), _mm512_loadu_si512(x + i + s * step));
        }
    }
    for (; i + step <= k; i += step) {
        add(0, _mm512_loadu_si512(w + i), _mm512_loadu_si512(x + i));
    }
    if (i < k) {
        const __mmask32 rest = __mmask32(detail::lane_mask(k - i));
        add(1, _mm512_maskz_loadu_epi16(rest, w + i), _mm512_maskz_loadu_epi16(rest, x + i));
    }
    return sum(((acc[0] + acc[1]) + (acc[2] + acc[3])) + ((acc[4] + acc[5]) + (acc[6] + acc[7])));
}
#else
constexpr bool has_row_dot = false;
inline float row_dot(const bf16 *, const bf16 *, size_t) { return 0; }
#endif

// ---- matrix rows contiguous across k: sums of scaled rows ---------------------------------------------------------

constexpr size_t scaled_words = 8;                               // of k that a pass over the columns adds
constexpr size_t scaled_rows_held = vector_bytes == 64 ? 12 : 4; // of the few rows at a time: sums fill the registers

namespace detail {
// A word of k of neighbouring columns, two vectors; `next`: the row of a word's second element, or null for 0.
template <class T, class Low, class High>
void load_columns(vf (&v)[2], const T *row, const T *, Low low, High high, float) {
    v[0] = load(row, low);
    v[1] = load(row + width, high);
}
#if defined(__AVX512BF16__)
inline vf load_columns(const bf16 *row, All, All) { return load_bits<vf>(row, All{}); }
inline vf load_columns(const bf16 *row, All, First high) { return load_bits<vf>(row, First{width + high.n}); }
inline vf load_columns(const bf16 *row, First low, First) { return load_bits<vf>(row, low); }
template <class Low, class High>
void load_columns(vf (&v)[2], const bf16 *row, const bf16 *next, Low low, High high, bf16) {
    alignas(64) static constexpr uint16_t pairs[64] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                       8,  40, 9,  41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47,
                                                       16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
                                                       24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
    const __m512i a = (__m512i)load_columns(row, low, high), b = (__m512i)(next ? load_columns(next, low, high) : vf{});
    v[0] = (vf)_mm512_permutex2var_epi16(a, _mm512_load_si512(pairs), b);
    v[1] = (vf)_mm512_permutex2var_epi16(a, _mm512_load_si512(pairs + 32), b);
}
#endif

// out[j][0, n) += sum over `terms` rows u of x[j][u] * w[u][0, n), for R rows j; ahead: rows of w to fetch meanwhile.
template <class T, size_t R>
void add_scaled(const T *w, ptrdiff_t stride, size_t terms, const panel_t<T> *x, size_t ldx, size_t n, float *out,
                size_t ldo, size_t ahead) {
    using P = panel_t<T>;
    constexpr size_t e = word_elements<P>;
    const auto columns = [&](size_t i, auto low, auto high) {
        vf sums[R][2];
#pragma GCC unroll 16
        for (size_t j = 0; j < R; j++) {
            sums[j][0] = load(out + j * ldo + i);
            sums[j][1] = load(out + j * ldo + i + width);
        }
        const T *row = w + i;
        for (size_t u = 0; u < terms; u += e, row += ptrdiff_t(e) * stride) {
            vf v[2];
            load_columns(v, row, u + 1 < terms ? row + stride : nullptr, low, high, P{});
#pragma GCC unroll 16
            for (size_t j = 0; j < R; j++) {
                const vf scale = splat_word(x + j * ldx + u);
                sums[j][0] = multiply_add(sums[j][0], scale, v[0], P{});
                sums[j][1] = multiply_add(sums[j][1], scale, v[1], P{});
            }
        }
        for (size_t u = 0; u < ahead; u++, row += stride) {
            for (size_t byte = 0; byte < tile_columns * sizeof(T); byte += 64) {
                __builtin_prefetch(reinterpret_cast<const char *>(row) + byte, 0, 3);
            }
        }
#pragma GCC unroll 16
        for (size_t j = 0; j < R; j++) {
            store(out + j * ldo + i, sums[j][0]);
            store(out + j * ldo + i + width, sums[j][1]);
        }
    };
    size_t i = 0;
    for (; i + tile_columns <= n; i += tile_columns) {
        columns(i, All{}, All{});
    }
    if (i + width <= n) {
        columns(i, All{}, First{n - i - width});
    } else if (i < n) {
        columns(i, First{n - i}, First{0});
    }
}
} // namespace detail

// out[few][ldo], n columns: sums of x[j][i] * w[i][0, n); x in plain order. ldo: a multiple of tile_columns.
template <class T>
void scaled_rows(const T *w, ptrdiff_t stride, size_t n, const panel_t<T> *x, size_t few, size_t k, float *out,
                 size_t ldo) {
    constexpr size_t step = scaled_words * word_elements<panel_t<T>>;
    const size_t groups = div_up(few, scaled_rows_held);
    std::fill_n(out, few * ldo, 0.0f);
    for (size_t i = 0; i < k; i += step, w += ptrdiff_t(step) * stride) {
        const size_t terms = std::min(step, k - i), ahead = std::min(step, k - i - terms);
        for (size_t g = 0, j = 0; g < groups; g++) {
            const size_t end = few * (g + 1) / groups;
            with_count<scaled_rows_held>(end - j, [&](auto count) {
                detail::add_scaled<T, decltype(count)::value>(w, stride, terms, x + j * padded(k) + i, padded(k), n,
                                                              out + j * ldo, ldo, g == 0 ? ahead : 0);
            });
            j = end;
        }
    }
}

} // namespace infiniop::cpu
