// The register tile of a matrix product, and packing into the panels that it reads.
#pragma once

#include <algorithm>
#include <utility>

#include "simd.h"

namespace infiniop::cpu {

constexpr size_t width = lanes<float>;
constexpr size_t tile_rows = vector_bytes == 64 ? 14 : 6; // accumulators fill the registers
constexpr size_t tile_columns = 2 * width;

constexpr size_t round_up(size_t n, size_t step) { return (n + step - 1) / step * step; }
constexpr size_t div_up(size_t n, size_t step) { return (n + step - 1) / step; }

// ---- words --------------------------------------------------------------------------------------------------------

// A panel consists of words of 32 bits: an f32, or two bf16 that are neighbours along k. Lengths and strides are in
// words. panel_t<T>: what a product of T multiplies; packing widens to f32 what the processor cannot multiply itself.
template <class P> constexpr size_t word_elements = std::is_same_v<P, bf16> ? 2 : 1;

#if defined(__AVX512BF16__)
template <class T> using panel_t = std::conditional_t<std::is_same_v<T, bf16>, bf16, float>;
#else
template <class T> using panel_t = float;
#endif

inline size_t word_elements_of(infiniDtype_t dtype) {
    return dtype == INFINI_DTYPE_BF16 ? word_elements<panel_t<bf16>> : 1;
}

// Words of tile_columns columns of a right operand, consecutive along k `ld` words apart.
template <class P> struct Panel {
    const P *data;
    size_t ld = tile_columns;
};

namespace detail {
inline vf splat_word(const float *p) { return splat<vf>(*p); }
inline vf load_words(const float *p) { return load(p); }
inline vf multiply_add(vf sum, vf a, vf b, float) { return sum + a * b; }
#if defined(__AVX512BF16__)
inline vf splat_word(const bf16 *p) {
    int word;
    std::memcpy(&word, p, sizeof(word));
    return (vf)_mm512_set1_epi32(word);
}
inline vf load_words(const bf16 *p) { return load_bits<vf>(p, All{}); }
// Takes subnormal numbers for 0, and rounds after each of the two products.
inline vf multiply_add(vf sum, vf a, vf b, bf16) { return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
#endif
} // namespace detail

// Sets accumulators to 0 without a loop, which gcc would turn into a memset that keeps them out of registers.
inline void clear(vf &v) { v = vf{}; }
inline void clear(vi &v) { v = vi{}; }
template <class V, size_t N> void clear(V (&v)[N]);
namespace detail {
template <class V, size_t N, size_t... I> void clear_each(V (&v)[N], std::index_sequence<I...>) { (clear(v[I]), ...); }
} // namespace detail
template <class V, size_t N> void clear(V (&v)[N]) { detail::clear_each(v, std::make_index_sequence<N>()); }

// c[R, V vectors] += a[R, k] * b[k, V vectors]. A's strides are free; rows of b and c are ldb and ldc apart.
template <size_t R, size_t V = 2, class P>
void multiply_tile(size_t k, const P *a, size_t a_row, size_t a_col, const P *b, size_t ldb, float *c, size_t ldc) {
    constexpr size_t e = word_elements<P>;
    vf acc[R][V];
    clear(acc);
    for (size_t i = 0; i < k; i++) {
        vf y[V];
#pragma GCC unroll 2
        for (size_t v = 0; v < V; v++) {
            y[v] = detail::load_words(b + v * width * e);
        }
#pragma GCC unroll 16
        for (size_t r = 0; r < R; r++) {
            const vf x = detail::splat_word(a + r * a_row * e);
#pragma GCC unroll 2
            for (size_t v = 0; v < V; v++) {
                acc[r][v] = detail::multiply_add(acc[r][v], x, y[v], P{});
            }
        }
        a += a_col * e;
        b += ldb * e;
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < R; r++) {
#pragma GCC unroll 2
        for (size_t v = 0; v < V; v++) {
            float *sum = c + r * ldc + v * width;
            store(sum, load(sum) + acc[r][v]);
        }
    }
}

// Calls f(Count<n>{}) with n known to the compiler, 1 <= n <= Max.
template <size_t N> using Count = std::integral_constant<size_t, N>;
template <size_t Max, class F> void with_count(size_t n, F &&f) {
    if constexpr (Max > 1) {
        if (n < Max) {
            return with_count<Max - 1>(n, f);
        }
    }
    f(Count<Max>{});
}

// ---- packing ----------------------------------------------------------------------------------------------------

namespace detail {
// Steps of a transposition, of one instruction each on x86. Words of a and b in turns, from the lower (from = 0) or the
// upper (2) half of each 128 bits.
template <size_t from, size_t... I> vf interleave_words(vf a, vf b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (I / 4 * 4 + from + I % 4 / 2 + I % 2 * width)...);
}
// The lower (from = 0) or upper (2) two words of each 128 bits of a, then of b.
template <size_t from, size_t... I> vf join_halves(vf a, vf b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (I / 4 * 4 + from + I % 2 + I % 4 / 2 * width)...);
}
// Every second of the 128 bits of a, then of b, from the first (from = 0) or the second (1).
template <size_t from, size_t... I> vf join_quarters(vf a, vf b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, ((I / 4 * 2 + from) * 4 + I % 4)...);
}

// Words 4 i + j of rows 4 k … 4 k + 3 in the i-th 128 bits of v[4 k + j].
[[gnu::always_inline]] inline void transpose_quarters(vf (&v)[width]) {
    constexpr auto all = std::make_index_sequence<width>();
#pragma GCC unroll 4
    for (size_t k = 0; k < width; k += 4) {
        const vf a = interleave_words<0>(v[k], v[k + 1], all), b = interleave_words<0>(v[k + 2], v[k + 3], all);
        const vf c = interleave_words<2>(v[k], v[k + 1], all), d = interleave_words<2>(v[k + 2], v[k + 3], all);
        v[k] = join_halves<0>(a, b, all);
        v[k + 1] = join_halves<2>(a, b, all);
        v[k + 2] = join_halves<0>(c, d, all);
        v[k + 3] = join_halves<2>(c, d, all);
    }
}
} // namespace detail

// v[i][j] becomes v[j][i].
[[gnu::always_inline]] inline void transpose(vf (&v)[width]) {
    constexpr auto all = std::make_index_sequence<width>();
    detail::transpose_quarters(v);
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        if constexpr (width == 8) {
            const vf a = v[j], b = v[4 + j];
            v[j] = detail::join_quarters<0>(a, b, all);
            v[4 + j] = detail::join_quarters<1>(a, b, all);
        } else if constexpr (width == 16) {
            const vf a = detail::join_quarters<0>(v[j], v[4 + j], all),
                     b = detail::join_quarters<0>(v[8 + j], v[12 + j], all);
            const vf c = detail::join_quarters<1>(v[j], v[4 + j], all),
                     d = detail::join_quarters<1>(v[8 + j], v[12 + j], all);
            v[j] = detail::join_quarters<0>(a, b, all);
            v[4 + j] = detail::join_quarters<0>(c, d, all);
            v[8 + j] = detail::join_quarters<1>(a, b, all);
            v[12 + j] = detail::join_quarters<1>(c, d, all);
        }
    }
}

namespace detail {
template <class T> vf load_words(const T *p, size_t i, float, All) { return load(p + i); }
template <class T> vf load_words(const T *p, size_t i, float, First part) { return load(p + i, part); }
inline vf load_words(const bf16 *p, size_t i, bf16, All) { return load_bits<vf>(p + 2 * i, All{}); }
inline vf load_words(const bf16 *p, size_t i, bf16, First part) { return load_bits<vf>(p + 2 * i, First{2 * part.n}); }

// Words i … of `rows` rows into dst[i …][N]; row(r) points at row r, whose elements are neighbours.
template <size_t N, class P, class Row, class Part>
void pack_words(P *dst, Row &&row, size_t rows, size_t i, Part part) {
    constexpr size_t groups = div_up(N, width), e = word_elements<P>;
    vf v[groups][width];
    for (size_t g = 0; g < groups; g++) {
        for (size_t r = 0; r < width; r++) {
            v[g][r] = g * width + r < rows ? load_words(row(g * width + r), i, P{}, part) : vf{};
        }
        transpose(v[g]);
    }
    size_t count = width;
    if constexpr (!std::is_same_v<Part, All>) {
        count = part.n;
    }
    for (size_t j = 0; j < count; j++) {
        for (size_t g = 0; g < groups; g++) {
            P *p = dst + ((i + j) * N + g * width) * e;
            if constexpr (N % width) {
                if (g + 1 == groups) {
                    store_bits(p, v[g][j], First{N % width * e});
                    continue;
                }
            }
            store_bits(p, v[g][j], All{});
        }
    }
}

// One word of each row: dst[N] from elements `stride` apart; `next`: the word's second element, or null for 0.
template <size_t N, class T> void pack_across(float *dst, const T *src, const T *, ptrdiff_t stride, size_t rows) {
    if (stride == 1) {
        for_vectors<width>(rows, [&](size_t r, auto part) { store(dst + r, load(src + r, part), part); });
    } else {
        for (size_t r = 0; r < rows; r++) {
            dst[r] = get(src[ptrdiff_t(r) * stride]);
        }
    }
    std::fill(dst + rows, dst + N, 0.0f);
}
template <size_t N> void pack_across(bf16 *dst, const bf16 *src, const bf16 *next, ptrdiff_t stride, size_t rows) {
    if (stride == 1) {
        for_vectors<width>(rows, [&](size_t r, auto part) {
            const vu low = extend(load_bits<vh>(src + r, part));
            const vu high = next ? extend(load_bits<vh>(next + r, part)) : vu{};
            store(reinterpret_cast<float *>(dst + 2 * r), bit_cast<vf>((vu)(low | high << 16)), part);
        });
    } else {
        for (size_t r = 0; r < rows; r++) {
            dst[2 * r] = src[ptrdiff_t(r) * stride];
            dst[2 * r + 1] = next ? next[ptrdiff_t(r) * stride] : bf16{};
        }
    }
    std::fill(dst + 2 * rows, dst + 2 * N, bf16{});
}
} // namespace detail

// A panel dst[words of k][N] from `rows` rows given by pointers; rows beyond come as 0.
template <size_t N, class P, class Row> void pack_rows(P *dst, Row &&row, size_t rows, size_t k) {
    constexpr size_t e = word_elements<P>;
    for_vectors<width>(k / e, [&](size_t i, auto part) { detail::pack_words<N>(dst, row, rows, i, part); });
    if constexpr (e > 1) {
        if (k % e == 0) {
            return;
        }
        P *last = dst + (k - 1) * N;
        std::fill_n(last, N * e, P{});
        for (size_t r = 0; r < rows; r++) {
            last[r * e] = row(r)[k - 1];
        }
    }
}

// A panel dst[words of k][N] from the matrix src[rows, k] of the given strides; rows beyond come as 0.
template <size_t N, class P, class T>
void pack_panel(P *dst, const T *src, ptrdiff_t row_stride, ptrdiff_t col_stride, size_t rows, size_t k) {
    constexpr size_t e = word_elements<P>;
    if (col_stride == 1) {
        return pack_rows<N>(dst, [&](size_t r) { return src + ptrdiff_t(r) * row_stride; }, rows, k);
    }
    for (size_t i = 0; i < k; i += e, src += ptrdiff_t(e) * col_stride, dst += N * e) {
        detail::pack_across<N>(dst, src, i + 1 < k ? src + col_stride : nullptr, row_stride, rows);
    }
}

} // namespace infiniop::cpu
