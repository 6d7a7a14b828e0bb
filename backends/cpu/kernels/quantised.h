// int8 and int4 weights in panels of 32 rows. Per panel and group of a row, one after another: 32 scales in their own
// dtype, 32 zeros (i16, where there are any), then the integers as unsigned codes, [k / 8][32][8] with the 8 of a row
// split: int8 [2][32][4], int4 [32][4] bytes, the first four in the low halves. So a lane of 32 bits holds a row's
// neighbours. A group is padded to a multiple of 8; rows beyond n have scale 0.
#pragma once

#include "packed.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace infiniop::cpu {

constexpr size_t unit = 8;            // elements of a row that lie together
constexpr size_t max_block = 128;     // elements of x that are rounded together
constexpr size_t piece_bytes = 16384; // of a panel that stay in L1
constexpr infiniDtype_t quantised_scales[3] = {INFINI_DTYPE_F16, INFINI_DTYPE_BF16, INFINI_DTYPE_F32};
constexpr uint32_t quantised_layout = 0x41555043; // "CPUA"; one letter on for each scales' dtype, three with zeros

class QuantisedWeight {
public:
    QuantisedWeight() = default;
    QuantisedWeight(size_t n, size_t k, size_t group_size, bool int4, infiniDtype_t weight, infiniDtype_t scales,
                    bool zeros)
        : n(n), k(k), group(group_size ? group_size : k), groups(group_size ? k / group_size : 1), int4(int4),
          scales(scales), zeros(zeros), offset(weight == INFINI_DTYPE_U8 ? 0
                                               : int4                    ? 8
                                                                         : 128) {}

    size_t padded_group() const { return round_up(group, unit); }
    size_t blocks() const { return groups * div_up(padded_group(), max_block); } // of x
    size_t scale_bytes() const { return panel_rows * element_size(scales); }
    size_t unit_bytes() const { return panel_rows * unit / (int4 ? 2 : 1); }
    size_t prefix_bytes() const { return scale_bytes() + (zeros ? panel_rows * sizeof(int16_t) : 0); }
    size_t group_bytes() const { return prefix_bytes() + padded_group() / unit * unit_bytes(); }
    size_t panel_bytes() const { return groups * group_bytes(); }
    size_t bytes() const { return sizeof(PackedHeader) + div_up(n, panel_rows) * panel_bytes(); }
    size_t piece_groups() const { return std::max<size_t>(1, piece_bytes / std::max<size_t>(group_bytes(), 1)); }

    uint32_t layout() const {
        const auto which = std::find(quantised_scales, quantised_scales + 3, scales) - quantised_scales;
        return quantised_layout + ((uint32_t(which) + 3 * zeros) << 24);
    }

    static bool has_layout(const PackedHeader &h) {
        return h.layout % (1u << 24) == quantised_layout % (1u << 24) && kind(h) < 6;
    }
    // What a header with one of our layouts describes; says whether it can be.
    bool read(const PackedHeader &h) {
        const bool known = h.dtype == INFINI_DTYPE_U8 || h.dtype == INFINI_DTYPE_I8 || h.dtype == INFINI_DTYPE_F16 ||
                           h.dtype == INFINI_DTYPE_BF16 || h.dtype == INFINI_DTYPE_F32;
        if ((h.format != 1 && h.format != 2) || !known || h.group_size < 0 || (h.group_size && h.k % h.group_size)) {
            return false;
        }
        *this = QuantisedWeight(size_t(h.n), size_t(h.k), size_t(h.group_size), h.format == 2, infiniDtype_t(h.dtype),
                                quantised_scales[kind(h) % 3], kind(h) >= 3);
        return true;
    }

    size_t n = 0, k = 0, group = 0, groups = 0;
    bool int4 = false;
    infiniDtype_t scales = INFINI_DTYPE_BF16;
    bool zeros = false;
    int offset = 0; // codes are unsigned: signed integers are moved up

private:
    static uint32_t kind(const PackedHeader &h) { return (h.layout >> 24) - (quantised_layout >> 24); }
};

// What linear_pack makes of a weight, given the indices of its tensors.
inline QuantisedWeight quantised_weight(const Call &call, size_t weight, size_t scales, size_t zeros, size_t group_size,
                                        bool int4) {
    return {call.dim(weight, 0), call.dim(weight, 1),
            group_size,          int4,
            call.dtype(weight),  call.has(scales) ? call.dtype(scales) : INFINI_DTYPE_BF16,
            call.has(zeros)};
}

// ---- x, rounded to integers ----------------------------------------------------------------------------------------

#if defined(__AVX512VNNI__)
using small_t = int8_t; // what 8-bit activations are kept in
#else
using small_t = int16_t;
#endif

// Rows of x that are multiplied together, rounded. Per block: their scales, their integers' sums times the scales, and
// those sums times -offset (0 where the weight has zeros). Then the integers, a unit of each row in turn: i16 in the
// order 0 2 1 3 of every four, for products of pairs; i8 as they come.
class RoundedRows {
public:
    RoundedRows(const QuantisedWeight &w, char *memory, size_t count)
        : memory_(memory), count_(count), blocks_(w.blocks()) {}

    static size_t row_bytes(const QuantisedWeight &w) {
        return w.blocks() * block_bytes + w.groups * w.padded_group() * sizeof(int16_t);
    }
    // For `rows` rows of k elements: enough for a row of any weight, and for all rows of one with groups of 16 or more.
    static size_t workspace(size_t rows, size_t k) {
        const size_t any = k * (block_bytes + unit * sizeof(int16_t)) + 64;
        return std::max(any, rows * (k * 3 + 64));
    }

    size_t count() const { return count_; }
    float *scales(size_t block) const { return reinterpret_cast<float *>(memory_) + block * count_; }
    float *sums(size_t block) const { return scales(blocks_ + block); }
    int32_t *corrections(size_t block) const {
        return reinterpret_cast<int32_t *>(memory_) + (2 * blocks_ + block) * count_;
    }
    // Of all rows, from element i of each on; i is a multiple of the unit.
    template <class I> I *integers(size_t i) const {
        return reinterpret_cast<I *>(memory_ + blocks_ * block_bytes * count_) + i * count_;
    }

private:
    static constexpr size_t block_bytes = 12;

    char *memory_;
    size_t count_, blocks_;
};

namespace detail {
template <size_t first, class V, size_t... I> V every_other(V a, V b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (2 * I + first)...);
}
template <size_t first, class V> V every_other(V a, V b) {
    return every_other<first>(a, b, std::make_index_sequence<sizeof(V) / sizeof(a[0])>());
}

// Two vectors of integers, in the order of an i16 row.
inline void store_rounded(int16_t *dst, vi a, vi b) {
    using V = VectorOf<double>::bits;
    const V p = bit_cast<V>(a), q = bit_cast<V>(b);
    const V even = every_other<0>(p, q), odd = every_other<1>(p, q);
    const vu pairs = (bit_cast<vu>(even) & 0xffffu) | (bit_cast<vu>(odd) << 16);
    std::memcpy(dst, &pairs, sizeof(pairs));
}
inline void store_rounded(int8_t *dst, vi a, vi b) {
    typedef int8_t Bytes __attribute__((vector_size(width)));
    const Bytes low = __builtin_convertvector(a, Bytes), high = __builtin_convertvector(b, Bytes);
    std::memcpy(dst, &low, sizeof(low));
    std::memcpy(dst + width, &high, sizeof(high));
}

// Rounds `count` values (a multiple of the unit) to -most … most and returns the sum of the integers; the memory behind
// the values is 0 up to a multiple of two vectors. The units of out are `stride` elements apart. A block with an
// infinity or NaN has scale NaN, one that is all but 0 has scale 0.
template <class I>
int32_t round_block(const float *values, size_t count, float most, float *scale, I *out, size_t stride) {
    vi largest = {};
    for (size_t i = 0; i < count; i += width) {
        const vi magnitude = bit_cast<vi>(load(values + i)) & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    const int32_t bits = max_lane(largest);
    const float peak = bit_cast<float>(bits);
    if (bits >= 0x7f800000 || peak < 1e-30f) {
        *scale = bits >= 0x7f800000 ? __builtin_nanf("") : 0.0f;
        for (size_t i = 0; i < count; i += unit, out += stride) {
            std::memset(out, 0, unit * sizeof(I));
        }
        return 0;
    }
    *scale = peak / most;
    const vf steps = splat<vf>(most / peak), shift = splat<vf>(12582912.0f); // 1.5 * 2^23: the addition rounds
    I rounded[max_block];
    vi total = {};
    for (size_t i = 0; i < count; i += 2 * width) {
        vi q[2];
        for (size_t h = 0; h < 2; h++) {
            q[h] = bit_cast<vi>(load(values + i + h * width) * steps + shift) - bit_cast<vi>(shift);
            total += q[h];
        }
        store_rounded(rounded + i, q[0], q[1]);
    }
    for (size_t i = 0; i < count; i += unit, out += stride) {
        std::memcpy(out, rounded + i, unit * sizeof(I));
    }
    return cpu::sum(total);
}
} // namespace detail

// Row j of the rounded ones from k elements of type E.
template <class I, class E>
void round_row(const QuantisedWeight &w, const RoundedRows &rows, size_t j, const E *x, int bits) {
    const float most = bits == 8 ? 127.0f : 32767.0f;
    const size_t stride = rows.count() * unit;
    size_t block = 0;
    for (size_t group = 0; group < w.groups; group++) {
        for (size_t at = 0; at < w.group; at += max_block, block++) {
            const size_t count = std::min(max_block, w.group - at), kept = round_up(count, unit);
            float values[max_block], *scale = rows.scales(block) + j;
            for_vectors<width>(
                count, [&](size_t i, auto part) { store(values + i, load(x + group * w.group + at + i, part)); });
            std::fill(values + count, values + round_up(count, 2 * width), 0.0f);
            I *out = rows.integers<I>(group * w.padded_group() + at) + j * unit;
            const int32_t sum = detail::round_block(values, kept, most, scale, out, stride);
            rows.sums(block)[j] = float(sum) * *scale;
            rows.corrections(block)[j] = w.zeros ? 0 : -w.offset * sum;
        }
    }
}

// ---- products of a panel with rows of x -----------------------------------------------------------------------------

constexpr size_t panel_pass = vector_bytes == 64 ? 12 : 4; // rows of x that are multiplied together, at most
constexpr size_t band_passes = 11;                         // of them, while a piece of a panel stays in L1

namespace detail {
inline vi low_half(vi v) { return (vi)((vu)v << 16) >> 16; }

// acc + the products of two i16 in every lane of 32 bits.
inline vi add_pairs(vi acc, vi a, vi b) {
#if defined(__AVX512VNNI__)
    return (vi)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)b);
#elif defined(__AVX512BW__)
    return acc + (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return acc + (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return acc + (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    return acc + low_half(a) * low_half(b) + (a >> 16) * (b >> 16);
#endif
}

template <class I> vi splat_at(const I *x) {
    int32_t bits;
    std::memcpy(&bits, x, sizeof(bits));
    return splat<vi>(bits);
}

// Every other code of a unit as i16, the operand of add_pairs: p = 0 even bytes of the first half, 1 odd ones, 2 and 3
// of the second half. bits: the halves, of int4 both in the first.
template <bool int4, size_t p> vi code_pairs(const vu (&bits)[2]) {
    typedef uint16_t Words __attribute__((vector_size(vector_bytes)));
    const Words words = (Words)bits[int4 ? 0 : p / 2];
    constexpr int shift = p % 2 * 8 + (int4 && p > 1 ? 4 : 0);
    constexpr uint16_t mask = int4 ? 15 : 255;
    return (vi)(shift + (int4 ? 4 : 8) == 16 ? (Words)(words >> shift) : (Words)((words >> shift) & mask));
}

// The codes of half a unit as u8.
template <bool int4, size_t half> vu code_bytes(const vu (&bits)[2]) {
    return int4 ? (vu)((bits[0] >> (4 * half)) & 0x0f0f0f0fu) : bits[half];
}

// acc[s][j][g] += products of a unit, of which x has X rows. More than one set of accumulators hides latency.
template <bool int4, size_t S, size_t X, size_t G>
void add_unit(vi (&acc)[S][X][G], const vu (&bits)[G][2], const int16_t *x) {
    const auto piece = [&](auto index) {
        constexpr size_t p = decltype(index)::value;
        vi pairs[G];
#pragma GCC unroll 8
        for (size_t g = 0; g < G; g++) {
            pairs[g] = code_pairs<int4, p>(bits[g]);
        }
#pragma GCC unroll 16
        for (size_t j = 0; j < X; j++) {
            const vi xs = splat_at(x + j * unit + 2 * p);
#pragma GCC unroll 8
            for (size_t g = 0; g < G; g++) {
                acc[p % S][j][g] = add_pairs(acc[p % S][j][g], pairs[g], xs);
            }
        }
    };
    piece(Count<0>{});
    piece(Count<1>{});
    piece(Count<2>{});
    piece(Count<3>{});
}
#if defined(__AVX512VNNI__)
template <bool int4, size_t S, size_t X, size_t G>
void add_unit(vi (&acc)[S][X][G], const vu (&bits)[G][2], const int8_t *x) {
    const auto piece = [&](auto index) {
        constexpr size_t half = decltype(index)::value;
        vu codes[G];
#pragma GCC unroll 8
        for (size_t g = 0; g < G; g++) {
            codes[g] = code_bytes<int4, half>(bits[g]);
        }
#pragma GCC unroll 16
        for (size_t j = 0; j < X; j++) {
            const vi xs = splat_at(x + j * unit + 4 * half);
#pragma GCC unroll 8
            for (size_t g = 0; g < G; g++) {
                vi &sum = acc[half % S][j][g];
                sum = (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)codes[g], (__m512i)xs);
            }
        }
    };
    piece(Count<0>{});
    piece(Count<1>{});
}
#endif

// The scales of `width` rows of a group.
inline vf load_scales(const QuantisedWeight &w, const char *group, size_t row) {
    const char *p = group + row * element_size(w.scales);
    return w.scales == INFINI_DTYPE_F16    ? load(reinterpret_cast<const f16 *>(p))
           : w.scales == INFINI_DTYPE_BF16 ? load(reinterpret_cast<const bf16 *>(p))
                                           : load(reinterpret_cast<const float *>(p));
}

// Their zeros, as codes.
inline vf load_zeros(const QuantisedWeight &w, const char *group, size_t row) {
    vh bits;
    std::memcpy(&bits, group + w.scale_bytes() + row * sizeof(int16_t), sizeof(bits));
    return __builtin_convertvector((vi)(extend(bits) << 16) >> 16, vf);
}

// out[X][panel_rows] += X rounded rows times groups [begin, end) of a panel; of that the vectors first … first + G.
template <bool int4, class I, size_t X, size_t G>
void multiply_quantised(const QuantisedWeight &w, const char *panel, const RoundedRows &rows, size_t begin, size_t end,
                        size_t first, float *out) {
    constexpr size_t S = X * G <= 4 ? 2 : 1, half = panel_rows * 4;
    const size_t group_size = w.padded_group(), prefix = w.prefix_bytes(), unit_bytes = w.unit_bytes();
    const I *x = rows.integers<I>(begin * group_size);
    size_t block = begin * div_up(group_size, max_block);
    vf sums[X][G];
#pragma GCC unroll 16
    for (size_t j = 0; j < X; j++) {
#pragma GCC unroll 8
        for (size_t g = 0; g < G; g++) {
            sums[j][g] = load(out + j * panel_rows + (first + g) * width);
        }
    }
    panel += begin * w.group_bytes();
    for (size_t group = begin; group < end; group++) {
        const char *codes = panel + prefix + first * vector_bytes;
        vf scale[G];
        for (size_t g = 0; g < G; g++) {
            scale[g] = load_scales(w, panel, (first + g) * width);
        }
        for (size_t left = group_size; left > 0; block++) {
            const size_t count = std::min(left, max_block);
            vi acc[S][X][G];
            clear(acc);
#pragma GCC unroll 16
            for (size_t j = 0; j < X; j++) {
#pragma GCC unroll 8
                for (size_t g = 0; g < G; g++) {
                    acc[0][j][g] = splat<vi>(rows.corrections(block)[j]);
                }
            }
            for (size_t i = 0; i < count; i += unit, codes += unit_bytes, x += X * unit) {
                vu bits[G][2];
#pragma GCC unroll 8
                for (size_t g = 0; g < G; g++) {
                    std::memcpy(&bits[g][0], codes + g * vector_bytes, vector_bytes);
                    if (!int4) {
                        std::memcpy(&bits[g][1], codes + half + g * vector_bytes, vector_bytes);
                    }
                }
                add_unit<int4>(acc, bits, x);
            }
#pragma GCC unroll 16
            for (size_t j = 0; j < X; j++) {
                const vf step = splat<vf>(rows.scales(block)[j]);
#pragma GCC unroll 8
                for (size_t g = 0; g < G; g++) {
                    const vi total = S == 2 ? acc[0][j][g] + acc[S - 1][j][g] : acc[0][j][g];
                    sums[j][g] += __builtin_convertvector(total, vf) * step * scale[g];
                }
            }
            if (w.zeros) {
#pragma GCC unroll 8
                for (size_t g = 0; g < G; g++) {
                    const vf shift = load_zeros(w, panel, (first + g) * width) * scale[g];
#pragma GCC unroll 16
                    for (size_t j = 0; j < X; j++) {
                        sums[j][g] -= shift * splat<vf>(rows.sums(block)[j]);
                    }
                }
            }
            left -= count;
        }
        panel += w.group_bytes();
    }
#pragma GCC unroll 16
    for (size_t j = 0; j < X; j++) {
#pragma GCC unroll 8
        for (size_t g = 0; g < G; g++) {
            store(out + j * panel_rows + (first + g) * width, sums[j][g]);
        }
    }
}
} // namespace detail

// out[rows.count()][panel_rows] += the rounded rows, at most panel_pass, times groups [begin, end) of a panel. What a
// row gives does not depend on its neighbours, nor on how the groups are divided.
template <class I>
void add_quantised(const QuantisedWeight &w, const char *panel, const RoundedRows &rows, size_t begin, size_t end,
                   float *out) {
    with_count<panel_pass>(rows.count(), [&](auto known) {
        constexpr size_t X = decltype(known)::value;
        constexpr size_t G = X == 1 ? panel_vectors : std::min<size_t>(2, panel_vectors); // accumulators fill registers
        for (size_t first = 0; first < panel_vectors; first += G) {
            w.int4 ? detail::multiply_quantised<true, I, X, G>(w, panel, rows, begin, end, first, out)
                   : detail::multiply_quantised<false, I, X, G>(w, panel, rows, begin, end, first, out);
        }
    });
}

} // namespace infiniop::cpu
