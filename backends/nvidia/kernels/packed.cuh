// A packed weight on NVIDIA: the header that every backend writes (operators/_packed.py), 64 bytes of our own, then
//   in its own dtype: rows, padded with zeros to multiples of 32 elements;
//   int8, int4: tiles of 16 rows by 64 or 128 columns, 1 KiB each, in the order in which the lanes of a warp want them
//     as fragments of an m16n8k16 product; then scales [rows][groups] as given, then zeros [rows][groups], i16. Rows
//     are padded to multiples of 16. Integers are stored unsigned: signed ones, and their zeros, plus 128 or 8.
// In a tile lane 4 g + t has 16 bytes of row g, then of row g + 8: columns 16 s + 4 t … + 3 for every step s. An int4
// word holds two steps; element 2 r + e of step s is at bits 4 (2 (s % 2) + r + 4 e), so that a shift and a mask give a
// pair.
#pragma once

#include "mma.cuh"

namespace infiniop::nvidia {

struct PackedHeader {
    uint64_t magic;
    uint32_t version, format;
    int64_t n, k, group_size;
    uint32_t dtype, layout;
    uint64_t reserved[2];
    uint32_t wide; // ours: a difference from zero may exceed 256, which bf16 cannot hold
    uint32_t unused[15];
};
static_assert(sizeof(PackedHeader) == 128);

constexpr uint64_t packed_magic = 0x4b50494e49464e49u; // "INFINIPK"
constexpr uint32_t packed_version = 1;
constexpr uint32_t layout_rows = 0x0000564e;     // "NV"
constexpr uint32_t layout_integers = 0x0001564e; // + Kinds
constexpr int packed_row_step = 32, tile_rows = 16, tile_bytes = 1024;

enum class Scale : uint32_t { f16, bf16, f32 };

// Where everything of a packed weight is, from what describes it.
struct PackedWeight {
    int n, k, group; // group: columns that share a scale
    uint32_t format; // 0: rows, 1: int8, 2: int4
    Scale scale;
    bool is_signed, has_zeros;

    __host__ __device__ int64_t row_pitch() const {
        return (int64_t(k) + packed_row_step - 1) / packed_row_step * packed_row_step;
    }
    __host__ __device__ int tile_columns() const { return format == 2 ? 128 : 64; }
    __host__ __device__ int row_tiles() const { return int((int64_t(n) + tile_rows - 1) / tile_rows); }
    __host__ __device__ int column_tiles() const { return int((int64_t(k) + tile_columns() - 1) / tile_columns()); }
    __host__ __device__ int groups() const { return group > 0 ? k / group : 1; }
    __host__ __device__ int scale_bytes() const { return scale == Scale::f32 ? 4 : 2; }
    __host__ __device__ int64_t scales_at() const {
        return int64_t(sizeof(PackedHeader)) + int64_t(row_tiles()) * column_tiles() * tile_bytes;
    }
    __host__ __device__ int64_t zeros_at() const {
        return scales_at() + (int64_t(row_tiles()) * tile_rows * groups() * scale_bytes() + 15) / 16 * 16;
    }
    __host__ __device__ int64_t bytes(int element) const {
        if (format == 0) {
            return int64_t(sizeof(PackedHeader)) + n * row_pitch() * element;
        }
        return zeros_at() + (has_zeros ? int64_t(row_tiles()) * tile_rows * groups() * 2 : 0);
    }
    __host__ __device__ uint32_t layout() const {
        return format == 0
                   ? layout_rows
                   : layout_integers | uint32_t(scale) << 20 | uint32_t(is_signed) << 24 | uint32_t(has_zeros) << 25;
    }
    __host__ __device__ int offset() const { return !is_signed ? 0 : format == 2 ? 8 : 128; } // of stored integers
};

// Byte of a tile in which the integer at (row, column) begins; its bit there.
struct TilePlace {
    int byte, bit;

    __host__ __device__ TilePlace(bool int4, int row, int column) {
        const int step = column / 16, t = column % 16 / 4, i = column % 4;
        const int lane = (row % 8 * 4 + t) * 32 + row / 8 * 16;
        const int position = 2 * (step % 2) + i / 2 + 4 * (i % 2); // int4: of four bits within a word
        byte = lane + (int4 ? step / 2 * 4 + position / 2 : step * 4 + i);
        bit = int4 ? position % 2 * 4 : 0;
    }
};

#ifdef __CUDACC__
#define INFINIOP_DEVICE __device__ __forceinline__
#else
#define INFINIOP_DEVICE inline
#endif

// A packed weight that linear may use.
struct PackedReader {
    const char *base;
    PackedWeight w;
    bool wide;
    int groups;
    const char *scales;
    const int16_t *zeros; // nullptr: all are the format's

    // False where the buffer holds no weight [n, k] for elements of `dtype` that this backend packed.
    __host__ __device__ bool read(const char *packed, int64_t bytes, int n, int k, uint32_t dtype, int element) {
        base = packed;
        if (bytes < int64_t(sizeof(PackedHeader))) {
            return false;
        }
        const PackedHeader &h = *reinterpret_cast<const PackedHeader *>(packed);
        if (h.magic != packed_magic || h.version != packed_version || h.n != n || h.k != k || h.format > 2) {
            return false;
        }
        w.n = n;
        w.k = k;
        w.format = h.format;
        wide = h.wide != 0;
        const int64_t group = h.group_size;
        if (group < 0 || (group > 0 && (h.format == 0 || k % group != 0))) {
            return false;
        }
        w.group = group > 0 && group < k ? int(group) : k;
        w.scale = Scale(h.layout >> 20 & 3);
        w.is_signed = h.layout >> 24 & 1;
        w.has_zeros = h.layout >> 25 & 1;
        groups = w.groups();
        scales = base + w.scales_at();
        zeros = w.has_zeros ? reinterpret_cast<const int16_t *>(base + w.zeros_at()) : nullptr;
        return w.layout() == h.layout && w.scale <= Scale::f32 && (h.format != 0 || h.dtype == dtype) &&
               w.bytes(element) <= bytes;
    }

    template <class T> INFINIOP_DEVICE const T *rows() const {
        return reinterpret_cast<const T *>(base + sizeof(PackedHeader));
    }

    INFINIOP_DEVICE const char *tile(int row_tile, int column_tile) const {
        return base + sizeof(PackedHeader) + (int64_t(row_tile) * w.column_tiles() + column_tile) * tile_bytes;
    }

    INFINIOP_DEVICE float scale(int row, int group) const {
        const int64_t i = int64_t(row) * groups + group;
        return w.scale == Scale::f16    ? to_float(reinterpret_cast<const f16 *>(scales)[i])
               : w.scale == Scale::bf16 ? to_float(reinterpret_cast<const bf16 *>(scales)[i])
                                        : reinterpret_cast<const float *>(scales)[i];
    }

    // What the stored integers count from.
    INFINIOP_DEVICE int zero(int row, int group) const {
        return zeros ? zeros[int64_t(row) * groups + group] : w.offset();
    }

    // Element (row, column), whatever the format.
    template <class T> INFINIOP_DEVICE float value(int row, int column) const {
        if (w.format == 0) {
            return to_float(rows<T>()[int64_t(row) * w.row_pitch() + column]);
        }
        const int columns = w.tile_columns();
        const TilePlace at(w.format == 2, row % tile_rows, column % columns);
        const uint8_t byte = uint8_t(tile(row / tile_rows, column / columns)[at.byte]);
        const int q = w.format == 2 ? byte >> at.bit & 15 : byte;
        const int group = column / w.group;
        return float(q - zero(row, group)) * scale(row, group);
    }

    // Whether the integers' kernels can take it: steps of 16 columns with one scale, exact in T.
    INFINIOP_DEVICE bool fast() const { return (w.group % 16 == 0 || groups == 1) && !wide; }
};

// ---- integers into pairs of T, minus their zero ---------------------------------------------------------------

// Four bytes. 2^23 + q is a float whose low bits are q.
template <class T> INFINIOP_DEVICE void unpack_int8(uint32_t word, int zero, uint32_t &low, uint32_t &high) {
    const float base = 8388608.0f + float(zero);
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = __uint_as_float(0x4b000000u | (word >> 8 * i & 0xffu)) - base;
    }
    low = pack2<T>(v[0], v[1]);
    high = pack2<T>(v[2], v[3]);
}

// 128 + q as bf16, 1024 + q as f16: a constant and q in its low bits.
template <class T> constexpr uint32_t int4_magic = 0x64006400u;
template <> inline constexpr uint32_t int4_magic<bf16> = 0x43004300u;
template <class T> constexpr float int4_base = 1024.0f;
template <> inline constexpr float int4_base<bf16> = 128.0f;

// What unpack_int4 adds.
template <class T> INFINIOP_DEVICE uint32_t int4_shift(int zero) {
    const float shift = -(int4_base<T> + float(zero));
    return pack2<T>(shift, shift);
}

// Step 0 or 1 of a word.
template <class T>
INFINIOP_DEVICE void unpack_int4(uint32_t word, int step, uint32_t shift, uint32_t &low, uint32_t &high) {
    low = add2<T>((word >> 8 * step & 0x000f000fu) | int4_magic<T>, shift);
    high = add2<T>((word >> (8 * step + 4) & 0x000f000fu) | int4_magic<T>, shift);
}

} // namespace infiniop::nvidia
