// A packed weight: the header that every backend writes (operators/_packed.py), then panels of 32 rows. Within a panel
// elements of one column are neighbours, [k][32]; of bf16, two columns at a time, [k / 2][32][2], because a shift and a
// mask split such pairs. Rows beyond n and columns beyond k are zeros.
#pragma once

#include "matvec.h"

namespace infiniop::cpu {

struct PackedHeader {
    char magic[8];
    uint32_t version, format;
    int64_t n, k, group_size;
    uint32_t dtype, layout;
    char reserved[16];
};
static_assert(sizeof(PackedHeader) == 64);

constexpr char packed_magic[9] = "INFINIPK";
constexpr uint32_t packed_version = 1;
constexpr uint32_t packed_layout = 0x20555043; // "CPU", panels of 32 rows
constexpr size_t panel_rows = 32;

// Columns that lie together.
template <class T> constexpr size_t panel_step = split_pairs<T> ? 2 : 1;

// Elements of a panel.
inline size_t panel_elements(size_t k, infiniDtype_t dtype) {
    return panel_rows * (dtype == INFINI_DTYPE_BF16 ? round_up(k, 2) : k);
}

inline size_t packed_bytes(size_t n, size_t k, infiniDtype_t dtype) {
    return sizeof(PackedHeader) + div_up(n, panel_rows) * panel_elements(k, dtype) * element_size(dtype);
}

// ---- a few rows ---------------------------------------------------------------------------------------------------

constexpr size_t panel_vectors = panel_rows / width;
template <class T> constexpr bool pairs = word_elements<panel_t<T>> == 2; // multiplied as they lie
// Rows at a time.
template <class T> constexpr size_t panel_few = pairs<T> ? 12 : vector_bytes == 64 ? 6 : vector_bytes == 32 ? 3 : 1;

namespace detail {
// acc[j] += the columns at p times x[j][0 …]
template <class T, size_t X>
void add_columns(vf (&acc)[X][panel_vectors], const T *p, const panel_t<T> *x, size_t ldx) {
    constexpr size_t halves = pairs<T> ? 1 : panel_step<T>;
#pragma GCC unroll 2
    for (size_t half = 0; half < halves; half++) {
        vf columns[panel_vectors];
#pragma GCC unroll 8
        for (size_t g = 0; g < panel_vectors; g++) {
            const T *q = p + g * panel_step<T> * width;
            if constexpr (pairs<T>) {
                columns[g] = load_words(q);
            } else {
                columns[g] = half == 0 ? load_half<0>(q) : load_half<1>(q);
            }
        }
#pragma GCC unroll 12
        for (size_t j = 0; j < X; j++) {
            const vf scale = splat_word(x + j * ldx + half);
#pragma GCC unroll 8
            for (size_t g = 0; g < panel_vectors; g++) {
                acc[j][g] = multiply_add(acc[j][g], scale, columns[g], panel_t<T>{});
            }
        }
    }
}
} // namespace detail

// out[j * panel_rows + r] += sum over i < k of panel[i][r] * x[j][i]
template <class T, size_t X>
void multiply_panel(const T *panel, const panel_t<T> *x, size_t ldx, size_t k, float *out) {
    constexpr size_t step = panel_step<T>, sets = std::max<size_t>(1, 8 / (X * panel_vectors * (pairs<T> ? 1 : step)));
    vf acc[sets][X][panel_vectors];
    clear(acc);
    size_t i = 0;
    for (; i + sets * step <= k; i += sets * step) {
#pragma GCC unroll 8
        for (size_t s = 0; s < sets; s++) {
            detail::add_columns<T, X>(acc[s], panel + (i + s * step) * panel_rows, x + i + s * step, ldx);
        }
    }
    for (; i < k; i += step) {
        detail::add_columns<T, X>(acc[0], panel + i * panel_rows, x + i, ldx);
    }
#pragma GCC unroll 12
    for (size_t j = 0; j < X; j++) {
#pragma GCC unroll 8
        for (size_t g = 0; g < panel_vectors; g++) {
            float *p = out + j * panel_rows + g * width;
            vf sum = load(p);
#pragma GCC unroll 8
            for (size_t s = 0; s < sets; s++) {
                sum += acc[s][j][g];
            }
            store(p, sum);
        }
    }
}

// out[few][panel_rows]: a panel times a few rows, which lie in plain order, padded with zeros, padded(k) apart.
template <class T> void panel_product(const T *panel, const panel_t<T> *x, size_t few, size_t k, float *out) {
    const size_t step = few <= panel_few<T> ? std::max<size_t>(k, 1) : 256; // of a panel that stays in L1
    const size_t groups = div_up(few, panel_few<T>);
    std::fill_n(out, few * panel_rows, 0.0f);
    for (size_t i = 0; i < k; i += step) {
        for (size_t g = 0, j = 0; g < groups; g++) {
            const size_t end = few * (g + 1) / groups;
            with_count<panel_few<T>>(end - j, [&](auto count) {
                multiply_panel<T, decltype(count)::value>(panel + i * panel_rows, x + j * padded(k) + i, padded(k),
                                                          std::min(step, k - i), out + j * panel_rows);
            });
            j = end;
        }
    }
}

// ---- many rows: the panels of the blocked product ------------------------------------------------------------------

// Columns k … of the panel's rows row …, widened into dst[count][tile_columns] if need be; k is even.
template <class T, class P> Panel<P> panel_of(P *dst, const T *panel, size_t row, size_t k, size_t count) {
    constexpr size_t step = panel_step<T>;
    const T *from = panel + k * panel_rows + row * step;
    if constexpr (std::is_same_v<P, T>) {
        return {from, panel_rows};
    } else {
        for (size_t i = 0; i < count; i += step) {
            const T *p = from + i * panel_rows;
            for (size_t g = 0; g < tile_columns; g += width) {
                store(dst + i * tile_columns + g, load_half<0>(p + g * step));
                if (step == 2 && i + 1 < count) {
                    store(dst + (i + 1) * tile_columns + g, load_half<1>(p + g * step));
                }
            }
        }
        return {dst};
    }
}

// ---- packing --------------------------------------------------------------------------------------------------------

// One panel from `rows` rows, row_stride apart. The panel need not be aligned.
template <class T> void make_panel(T *panel, const T *weight, ptrdiff_t row_stride, size_t rows, size_t k) {
    constexpr size_t step = panel_step<T>;
    std::memset(static_cast<void *>(panel), 0, panel_rows * round_up(k, step) * sizeof(T));
    for (size_t from = 0; from < k; from += 64) {
        for (size_t r = 0; r < rows; r++) {
            const T *src = weight + ptrdiff_t(r) * row_stride;
            for (size_t i = from; i < std::min(from + 64, k); i++) {
                std::memcpy(panel + (i / step * panel_rows + r) * step + i % step, src + i, sizeof(T));
            }
        }
    }
}

} // namespace infiniop::cpu
