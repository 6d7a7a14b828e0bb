// The register tile of a matrix product, and packing into the panels that it reads. Everything here is f32: packing
// widens half types.
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

// c[R, tile_columns] += a[R, k] * b[k, tile_columns]. A's strides are free; b and c have rows ldb and ldc floats apart.
template <size_t R>
void multiply_tile(size_t k, const float *a, size_t a_row, size_t a_col, const float *b, size_t ldb, float *c,
                   size_t ldc) {
    vf acc[R][2];
#pragma GCC unroll 16
    for (size_t r = 0; r < R; r++) {
        acc[r][0] = load(c + r * ldc);
        acc[r][1] = load(c + r * ldc + width);
    }
    for (size_t i = 0; i < k; i++) {
        const vf b0 = load(b), b1 = load(b + width);
#pragma GCC unroll 16
        for (size_t r = 0; r < R; r++) {
            const vf x = splat<vf>(a[r * a_row]);
            acc[r][0] += x * b0;
            acc[r][1] += x * b1;
        }
        a += a_col;
        b += ldb;
    }
#pragma GCC unroll 16
    for (size_t r = 0; r < R; r++) {
        store(c + r * ldc, acc[r][0]);
        store(c + r * ldc + width, acc[r][1]);
    }
}

// a packed: a[k][tile_rows]
template <size_t R> void multiply_panels(size_t k, const float *a, const float *b, float *c, size_t ldc) {
    multiply_tile<R>(k, a, 1, tile_rows, b, tile_columns, c, ldc);
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

// Sets accumulators to 0 without a loop, which gcc would turn into a memset that keeps them out of registers.
inline void clear(vf &v) { v = vf{}; }
template <class V, size_t N> void clear(V (&v)[N]);
namespace detail {
template <class V, size_t N, size_t... I> void clear_each(V (&v)[N], std::index_sequence<I...>) { (clear(v[I]), ...); }
} // namespace detail
template <class V, size_t N> void clear(V (&v)[N]) { detail::clear_each(v, std::make_index_sequence<N>()); }

// ---- packing ----------------------------------------------------------------------------------------------------

namespace detail {
template <size_t S, size_t... I> void exchange(vf &a, vf &b, std::index_sequence<I...>) {
    const vf low = __builtin_shufflevector(a, b, ((I & S) ? width + I - S : I)...);
    b = __builtin_shufflevector(a, b, ((I & S) ? width + I : I + S)...);
    a = low;
}
} // namespace detail

// v[i][j] becomes v[j][i].
template <size_t S = width / 2> void transpose(vf (&v)[width]) {
#pragma GCC unroll 16
    for (size_t i = 0; i < width; i++) {
        if (!(i & S)) {
            detail::exchange<S>(v[i], v[i + S], std::make_index_sequence<width>());
        }
    }
    if constexpr (S > 1) {
        transpose<S / 2>(v);
    }
}

namespace detail {
// `row(r)` points at row r, whose elements are neighbours.
template <size_t P, class Row, class Part> void pack_columns(float *dst, Row &&row, size_t rows, size_t k, Part part) {
    constexpr size_t groups = div_up(P, width);
    vf v[groups][width];
    for (size_t g = 0; g < groups; g++) {
        for (size_t i = 0; i < width; i++) {
            v[g][i] = g * width + i < rows ? load(row(g * width + i) + k, part) : vf{};
        }
        transpose(v[g]);
    }
    size_t count = width;
    if constexpr (!std::is_same_v<Part, All>) {
        count = part.n;
    }
    for (size_t i = 0; i < count; i++) {
        for (size_t g = 0; g < groups; g++) {
            if constexpr (P % width) {
                if (g + 1 == groups) {
                    store(dst + (k + i) * P + g * width, v[g][i], First{P % width});
                    continue;
                }
            }
            store(dst + (k + i) * P + g * width, v[g][i]);
        }
    }
}
} // namespace detail

// dst[k][P] from `rows` rows given by pointers; rows beyond come as 0.
template <size_t P, class Row> void pack_rows(float *dst, Row &&row, size_t rows, size_t k) {
    for_vectors<width>(k, [&](size_t i, auto part) { detail::pack_columns<P>(dst, row, rows, i, part); });
}

// dst[k][P] from the matrix src[rows, k] of the given strides; rows beyond come as 0.
template <size_t P, class T>
void pack_panel(float *dst, const T *src, ptrdiff_t row_stride, ptrdiff_t col_stride, size_t rows, size_t k) {
    if (col_stride == 1) {
        return pack_rows<P>(dst, [&](size_t r) { return src + ptrdiff_t(r) * row_stride; }, rows, k);
    }
    for (size_t i = 0; i < k; i++, src += col_stride, dst += P) {
        if (row_stride == 1) {
            for_vectors<width>(rows, [&](size_t r, auto part) { store(dst + r, load(src + r, part), part); });
        } else {
            for (size_t r = 0; r < rows; r++) {
                dst[r] = get(src[ptrdiff_t(r) * row_stride]);
            }
        }
        std::fill(dst + rows, dst + P, 0.0f);
    }
}

} // namespace infiniop::cpu
