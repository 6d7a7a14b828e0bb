// Packing of int8 and int4 weights, from integers with scales and zeros or from floats.
#pragma once

#include "quantised.h"

namespace infiniop::cpu {

// What is packed: integers of type W with scales, or floats.
template <class W> struct Unquantised {
    const W *weight;
    ptrdiff_t row_stride;
    const char *scales = nullptr;
    ptrdiff_t scales_stride = 0;
    const uint8_t *zeros = nullptr;
    ptrdiff_t zeros_stride = 0;
    bool signed_zeros = false;

    const W *row(size_t r) const { return weight + ptrdiff_t(r) * row_stride; }
};

template <class W> constexpr bool is_integer = sizeof(W) == 1;

// ---- what cannot be packed ------------------------------------------------------------------------------------------

// Whether all of a row can be: integers within 4 bits where int4, floats finite.
template <class W> bool fits(const W *row, size_t k, bool int4) {
    if constexpr (is_integer<W>) {
        const unsigned low = std::is_signed_v<W> ? 8 : 0;
        unsigned bad = 0;
        for (size_t i = 0; int4 && i < k; i++) {
            bad |= unsigned(uint8_t(row[i] + low) > 15);
        }
        return !bad;
    } else {
        vi bad = {};
        for_vectors<width>(
            k, [&](size_t i, auto part) { bad |= (bit_cast<vi>(load(row + i, part)) & 0x7fffffff) >= 0x7f800000; });
        return !any(bad);
    }
}

// ---- quantising -----------------------------------------------------------------------------------------------------

// The scale of a group of floats: max |w| / 127, of int4 m / -8 with m the element of largest magnitude.
template <class W> bf16 scale_of(const W *w, size_t count, bool int4) {
    vf low = {}, high = {};
    for_vectors<width>(count, [&](size_t i, auto part) {
        const vf v = load(w + i, part);
        low = min(v, low);
        high = max(v, high);
    });
    const float least = -max_lane(-low), most = max_lane(high);
    return put<bf16>(int4 ? (-least >= most ? least : most) / -8.0f : (-least >= most ? -least : most) / 127.0f);
}

// codes[count] of floats; writes whole vectors.
template <class W> void quantise(uint8_t *codes, const W *w, size_t count, bf16 scale, const QuantisedWeight &to) {
    const vf divisor = splat<vf>(get(scale)), shift = splat<vf>(12582912.0f); // 1.5 * 2^23: the addition rounds
    const vf low = splat<vf>(to.int4 ? -8.0f : -127.0f), high = splat<vf>(to.int4 ? 7.0f : 127.0f);
    for_vectors<width>(count, [&](size_t i, auto part) {
        typedef uint8_t Bytes __attribute__((vector_size(width)));
        vf steps = load(w + i, part) / divisor;
        steps = divisor == vf{} ? vf{} : min(max(steps, low), high);
        const vi q = bit_cast<vi>(steps + shift) - bit_cast<vi>(shift) + to.offset;
        detail::store_bits(codes + i, __builtin_convertvector(q, Bytes), All{});
    });
}

// ---- panels ---------------------------------------------------------------------------------------------------------

namespace detail {
// Puts up to 128 codes of each of 32 rows in their places. codes[panel_rows][max_block].
inline void place(char *dst, const uint8_t (*codes)[max_block], size_t units, bool int4) {
    for (size_t u = 0; u < units; u++) {
        for (size_t r = 0; r < panel_rows; r++) {
            uint32_t first, second;
            std::memcpy(&first, codes[r] + u * unit, sizeof(first));
            std::memcpy(&second, codes[r] + u * unit + 4, sizeof(second));
            if (int4) {
                first |= second << 4;
                std::memcpy(dst + (u * panel_rows + r) * 4, &first, sizeof(first));
            } else {
                std::memcpy(dst + (u * 2 * panel_rows + r) * 4, &first, sizeof(first));
                std::memcpy(dst + ((u * 2 + 1) * panel_rows + r) * 4, &second, sizeof(second));
            }
        }
    }
}

// The scales of a group and its zeros as codes, of `rows` rows from `row` on.
template <class W>
void make_prefix(char *dst, const QuantisedWeight &w, const Unquantised<W> &from, size_t row, size_t rows,
                 size_t group) {
    std::memset(dst, 0, w.prefix_bytes());
    const size_t size = element_size(w.scales);
    for (size_t r = 0; r < rows; r++) {
        if constexpr (is_integer<W>) {
            std::memcpy(dst + r * size,
                        from.scales + (ptrdiff_t(row + r) * from.scales_stride + ptrdiff_t(group)) * ptrdiff_t(size),
                        size);
        } else {
            const bf16 scale = scale_of(from.row(row + r) + group * w.group, w.group, w.int4);
            std::memcpy(dst + r * size, &scale, size);
        }
        if (w.zeros) {
            const uint8_t bits = from.zeros[ptrdiff_t(row + r) * from.zeros_stride + ptrdiff_t(group)];
            const int16_t zero = int16_t((from.signed_zeros ? int8_t(bits) : int(bits)) + w.offset);
            std::memcpy(dst + w.scale_bytes() + r * sizeof(zero), &zero, sizeof(zero));
        }
    }
}
} // namespace detail

// One panel, of `rows` rows from `row` on.
template <class W>
void make_quantised_panel(char *panel, const QuantisedWeight &w, const Unquantised<W> &from, size_t row, size_t rows) {
    uint8_t codes[panel_rows][max_block] = {};
    for (size_t group = 0; group < w.groups; group++) {
        detail::make_prefix(panel, w, from, row, rows, group);
        char *dst = panel + w.prefix_bytes();
        for (size_t at = 0; at < w.group; at += max_block) {
            const size_t count = std::min(max_block, w.group - at), units = div_up(count, unit);
            for (size_t r = 0; r < rows; r++) {
                const W *src = from.row(row + r) + group * w.group + at;
                if constexpr (is_integer<W>) {
                    for (size_t i = 0; i < count; i++) {
                        codes[r][i] = uint8_t(src[i] + w.offset);
                    }
                } else {
                    bf16 scale;
                    std::memcpy(&scale, panel + r * sizeof(scale), sizeof(scale));
                    quantise(codes[r], src, count, scale, w);
                }
                std::memset(codes[r] + count, 0, units * unit - count);
            }
            detail::place(dst, codes, units, w.int4);
            dst += units * w.unit_bytes();
        }
        panel += w.group_bytes();
    }
}

} // namespace infiniop::cpu
