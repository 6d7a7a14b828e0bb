// Matrix products of our own: y = alpha x wᵀ + beta y + bias, where w has its columns (the terms of the sums) together,
// or is packed. Three forms:
//   multiply_few   at most 16 rows of x, half types, tensor cores: w streams by once, straight into the fragments;
//   multiply_many  any number of rows, half types, tensor cores: integers become halves in registers;
//   multiply_plain everything else, in f32 arithmetic.
// The tensor cores see w as their left operand, 16 rows at a time. A lane reads 16 bytes of its row; which columns of a
// product's step these stand for is free as long as x agrees: lane t of four has columns 16 s + 4 t … + 3 of step s
// where w is integers, and columns 32 c + 8 t … + 7 of two steps where it is halves.
#pragma once

#include "packed.cuh"

namespace infiniop::nvidia {

struct ProductParams {
    const void *x, *w, *bias; // (optional) bias
    void *y;
    int m, n, k;
    int64_t x_row, x_column, x_batch;
    int64_t w_row, w_column, w_batch; // of a plain w
    int64_t y_row, y_column, y_batch;
    int64_t packed_bytes;
    uint32_t dtype; // of x, as the ABI numbers it
    float alpha, beta;
    bool x_vectors; // x can be read 16 bytes at a time
};

// Stores one element.
template <class T>
__device__ __forceinline__ void store_product(const ProductParams &p, int row, int column, float sum) {
    T *y = static_cast<T *>(p.y) + blockIdx.z * p.y_batch + int64_t(row) * p.y_row + int64_t(column) * p.y_column;
    float value = p.alpha * sum;
    if (p.beta != 0.0f) {
        value += p.beta * to_float(*y);
    }
    if (p.bias) {
        value += to_float(static_cast<const T *>(p.bias)[column]);
    }
    *y = from_float<T>(value);
}

// N elements of a row of x, zeros beyond its ends, as pairs.
template <class T, int N>
__device__ __forceinline__ void load_x(uint32_t (&pairs)[N / 2], const ProductParams &p, const T *x, int row,
                                       int column) {
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        pairs[i] = 0;
    }
    if (row >= p.m || column >= p.k) {
        return;
    }
    const T *from = x + int64_t(row) * p.x_row + int64_t(column) * p.x_column;
    if (p.x_vectors && column + N <= p.k) {
        const Pack<uint32_t, N / 2> found = *reinterpret_cast<const Pack<uint32_t, N / 2> *>(from);
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            pairs[i] = found.v[i];
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (column + i < p.k) {
            pairs[i / 2] |= uint32_t(from[i * p.x_column].bits) << 16 * (i % 2);
        }
    }
}

// ---- a few rows -----------------------------------------------------------------------------------------------------

constexpr int few_warps = 8;

// sums[x tile][fragment of 16 rows of w by 8 rows of x], of this warp's share of the columns.
template <class T, int XT>
__device__ __forceinline__ void few_halves(float (&sums)[XT][4], const ProductParams &p, const T *x, const T *w,
                                           int64_t pitch) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int row = int(blockIdx.x) * 16 + g, chunks = int((int64_t(p.k) + 31) / 32);
    constexpr int ahead = 4;
    const uint4 none = {0, 0, 0, 0};
    for (int c = warp; c < chunks; c += ahead * few_warps) {
        uint4 first[ahead], second[ahead];
#pragma unroll
        for (int i = 0; i < ahead; i++) {
            const int column = (c + i * few_warps) * 32 + 8 * t;
            const bool inside = column < p.k;
            first[i] = inside && row < p.n ? load_once_16(w + int64_t(row) * pitch + column) : none;
            second[i] = inside && row + 8 < p.n ? load_once_16(w + int64_t(row + 8) * pitch + column) : none;
        }
#pragma unroll
        for (int i = 0; i < ahead; i++) {
            const uint32_t even[4] = {first[i].x, second[i].x, first[i].y, second[i].y};
            const uint32_t odd[4] = {first[i].z, second[i].z, first[i].w, second[i].w};
#pragma unroll
            for (int xt = 0; xt < XT; xt++) {
                uint32_t b[4];
                load_x<T, 8>(b, p, x, xt * 8 + g, (c + i * few_warps) * 32 + 8 * t);
                mma16816<T>(sums[xt], even, b[0], b[1]);
                mma16816<T>(sums[xt], odd, b[2], b[3]);
            }
        }
    }
}

// Scales and zeros of the two rows of w that a lane has.
template <class T, bool INT4> struct LaneScales {
    float scale[2];
    int zero[2];
    uint32_t shift[2];

    __device__ __forceinline__ LaneScales(const PackedReader &w, int row, int group) {
        group = min(group, w.groups - 1); // a tile may reach beyond the columns
#pragma unroll
        for (int i = 0; i < 2; i++) { // rows are padded: there is something for all 16
            scale[i] = w.scale(row + 8 * i, group);
            zero[i] = w.zero(row + 8 * i, group);
            shift[i] = INT4 ? int4_shift<T>(zero[i]) : 0;
        }
    }

    // The fragment of step s of what a lane has of a tile.
    __device__ __forceinline__ void unpack(uint32_t (&a)[4], const uint32_t (&words)[2][4], int s) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (INT4) {
                unpack_int4<T>(words[i][s / 2], s % 2, shift[i], a[i], a[2 + i]);
            } else {
                unpack_int8<T>(words[i][s], zero[i], a[i], a[2 + i]);
            }
        }
    }

    __device__ __forceinline__ void add(float (&sums)[4], float (&part)[4]) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sums[i] += part[i] * scale[i / 2];
            part[i] = 0.0f;
        }
    }
};

// The groups that the steps of a tile go through.
struct GroupWalk {
    int group, left; // left: columns until its end

    __device__ __forceinline__ GroupWalk(const PackedReader &w, int column)
        : group(uint32_t(column) / uint32_t(w.w.group)), left((group + 1) * w.w.group - column) {}

    // 16 columns on; whether another group begins there.
    __device__ __forceinline__ bool next(const PackedReader &w) {
        left -= 16;
        if (left != 0) {
            return false;
        }
        group++;
        left = w.w.group;
        return true;
    }
};

// Fragments of x for some steps of a tile.
template <class T, int STEPS>
__device__ __forceinline__ void load_x_steps(uint32_t (&pairs)[STEPS][2], const ProductParams &p, const T *x, int row,
                                             int column) {
    if (p.x_vectors && row < p.m && column + 16 * (STEPS - 1) + 4 <= p.k) {
        const T *from = x + int64_t(row) * p.x_row + column;
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const uint2 found = *reinterpret_cast<const uint2 *>(from + 16 * s);
            pairs[s][0] = found.x;
            pairs[s][1] = found.y;
        }
    } else {
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            load_x<T, 4>(pairs[s], p, x, row, column + 16 * s);
        }
    }
}

__device__ __forceinline__ void load_tile(uint32_t (&words)[2][4], const char *tile) {
    const char *mine = tile + threadIdx.x % 32 * 32;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint4 found = load_once_16(mine + 16 * i);
        words[i][0] = found.x;
        words[i][1] = found.y;
        words[i][2] = found.z;
        words[i][3] = found.w;
    }
}

template <class T, int XT, bool INT4>
__device__ __forceinline__ void few_integers(float (&sums)[XT][4], const ProductParams &p, const T *x,
                                             const PackedReader &w) {
    constexpr int steps = INT4 ? 8 : 4;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const int row = int(blockIdx.x) * 16 + g, tiles = w.w.column_tiles();
    constexpr int ahead = 2;
    for (int c = warp; c < tiles; c += ahead * few_warps) {
        uint32_t words[ahead][2][4] = {};
#pragma unroll
        for (int i = 0; i < ahead; i++) {
            if (c + i * few_warps < tiles) {
                load_tile(words[i], w.tile(blockIdx.x, c + i * few_warps));
            }
        }
#pragma unroll
        for (int i = 0; i < ahead; i++) {
            const int column = (c + i * few_warps) * steps * 16;
            if (c + i * few_warps >= tiles) {
                break;
            }
            constexpr int together = 4; // steps whose fragments of x are loaded at once
            uint32_t b[XT][together][2];
            GroupWalk walk(w, column);
            LaneScales<T, INT4> scales(w, row, walk.group);
            float part[XT][4] = {};
#pragma unroll
            for (int s = 0; s < steps; s++) {
                if (s > 0 && walk.next(w)) {
#pragma unroll
                    for (int xt = 0; xt < XT; xt++) {
                        scales.add(sums[xt], part[xt]);
                    }
                    scales = LaneScales<T, INT4>(w, row, walk.group);
                }
                if (s % together == 0) {
#pragma unroll
                    for (int xt = 0; xt < XT; xt++) {
                        load_x_steps<T, together>(b[xt], p, x, xt * 8 + g, column + 16 * s + 4 * t);
                    }
                }
                uint32_t a[4];
                scales.unpack(a, words[i], s);
#pragma unroll
                for (int xt = 0; xt < XT; xt++) {
                    mma16816<T>(part[xt], a, b[xt][s % together][0], b[xt][s % together][1]);
                }
            }
#pragma unroll
            for (int xt = 0; xt < XT; xt++) {
                scales.add(sums[xt], part[xt]);
            }
        }
    }
}

// One product after the other, by the threads of a block: rows and columns of y from these on.
template <class T>
__device__ void products_one_by_one(const ProductParams &p, const PackedReader &w, int row, int rows, int column,
                                    int columns) {
    for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
        const int r = row + i / columns, c = column + i % columns;
        if (r < p.m && c < p.n) {
            float sum = 0.0f;
            for (int j = 0; j < p.k; j++) {
                sum += to_float(static_cast<const T *>(p.x)[int64_t(r) * p.x_row + int64_t(j) * p.x_column]) *
                       w.value<T>(c, j);
            }
            store_product<T>(p, r, c, sum);
        }
    }
}

// Grid: x: tiles of 16 rows of w; z: the batch. XT: tiles of 8 rows of x. The warps share the columns.
template <class T, int XT, bool PACKED>
__global__ void __launch_bounds__(32 * few_warps, (XT == 2 && PACKED) ? 2 : 3) multiply_few(const ProductParams p) {
    __shared__ float shared[few_warps][XT][32][4];
    const T *x = static_cast<const T *>(p.x) + blockIdx.z * p.x_batch;
    float sums[XT][4] = {};
    if constexpr (PACKED) {
        PackedReader w;
        if (!w.read(static_cast<const char *>(p.w), p.packed_bytes, p.n, p.k, p.dtype, sizeof(T))) {
            return;
        }
        if (w.w.format == 0) {
            few_halves<T, XT>(sums, p, x, w.template rows<T>(), w.w.row_pitch());
        } else if (!w.fast()) {
            products_one_by_one<T>(p, w, 0, XT * 8, int(blockIdx.x) * 16, 16);
            return;
        } else if (w.w.format == 1) {
            few_integers<T, XT, false>(sums, p, x, w);
        } else {
            few_integers<T, XT, true>(sums, p, x, w);
        }
    } else {
        few_halves<T, XT>(sums, p, x, static_cast<const T *>(p.w) + blockIdx.z * p.w_batch, p.w_row);
    }
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
#pragma unroll
    for (int xt = 0; xt < XT; xt++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            shared[warp][xt][lane][i] = sums[xt][i];
        }
    }
    __syncthreads();
    for (int i = thread; i < XT * 128; i += 32 * few_warps) {
        const int column = i % 16, row = i / 16; // of w, of x
        const int from = column % 8 * 4 + row % 8 / 2, at = column / 8 * 2 + row % 2;
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < few_warps; w++) {
            sum += shared[w][row / 8][from][at];
        }
        if (row < p.m && int(blockIdx.x) * 16 + column < p.n) {
            store_product<T>(p, row, int(blockIdx.x) * 16 + column, sum);
        }
    }
}

// ---- many rows ------------------------------------------------------------------------------------------------------

struct ManyShape {
    static constexpr int warps = 4, threads = 32 * warps;
    static constexpr int x_rows = 64, w_rows = 32 * warps; // of a block; a warp has 32 rows of w
    static constexpr int columns = 128;                    // at a time
    static constexpr int pitch = columns + 16;
    static constexpr int shared = 2 * 2 * x_rows * pitch;
};

// Columns first … of the block's rows of x into shared memory.
template <class T>
__device__ __forceinline__ void load_x_tile(T *shared, const ProductParams &p, const T *x, int first) {
    using S = ManyShape;
    constexpr int pieces = S::columns / 8;
    for (int i = threadIdx.x; i < S::x_rows * pieces; i += S::threads) {
        const int row = i / pieces, column = i % pieces * 8;
        const int at = int(blockIdx.y) * S::x_rows + row, from = first + column;
        T *to = shared + row * S::pitch + column;
        if (p.x_vectors && (from + 8 <= p.k || from >= p.k || at >= p.m)) {
            const bool valid = at < p.m && from < p.k;
            copy_async_16(to, valid ? x + int64_t(at) * p.x_row + from : x, valid);
        } else {
            uint32_t pairs[4];
            load_x<T, 8>(pairs, p, x, at, from);
            *reinterpret_cast<uint4 *>(to) = {pairs[0], pairs[1], pairs[2], pairs[3]};
        }
    }
}

// Calls multiply(first column, x in shared memory) while the next columns of x arrive.
template <class T, class F>
__device__ __forceinline__ void for_x_tiles(const ProductParams &p, const T *x, F &&multiply) {
    using S = ManyShape;
    T *const shared = shared_memory<T>();
    load_x_tile(shared, p, x, 0);
    copy_async_commit();
    for (int first = 0; first < p.k; first += S::columns) {
        const int stage = first / S::columns % 2;
        copy_async_wait<0>();
        __syncthreads();
        if (first + S::columns < p.k) {
            load_x_tile(shared + (1 - stage) * S::x_rows * S::pitch, p, x, first + S::columns);
        }
        copy_async_commit();
        multiply(first, shared + stage * S::x_rows * S::pitch);
    }
}

template <class T>
__device__ __forceinline__ void many_halves(float (&sums)[2][8][4], const ProductParams &p, const T *x, const T *w,
                                            int64_t pitch, int row) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint4 none = {0, 0, 0, 0};
    for_x_tiles(p, x, [&](int first, const T *shared) {
#pragma unroll
        for (int c = 0; c < ManyShape::columns / 32; c++) {
            const int column = first + 32 * c + 8 * t;
            uint4 rows[4]; // row + g, 8 apart
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = row + g + 8 * i;
                rows[i] = at < p.n && column < p.k ? *reinterpret_cast<const uint4 *>(w + int64_t(at) * pitch + column)
                                                   : none;
            }
#pragma unroll
            for (int xt = 0; xt < 8; xt++) {
                const uint4 b =
                    *reinterpret_cast<const uint4 *>(shared + (xt * 8 + g) * ManyShape::pitch + 32 * c + 8 * t);
#pragma unroll
                for (int wt = 0; wt < 2; wt++) {
                    const uint4 &upper = rows[2 * wt], &lower = rows[2 * wt + 1];
                    const uint32_t even[4] = {upper.x, lower.x, upper.y, lower.y};
                    const uint32_t odd[4] = {upper.z, lower.z, upper.w, lower.w};
                    mma16816<T>(sums[wt][xt], even, b.x, b.y);
                    mma16816<T>(sums[wt][xt], odd, b.z, b.w);
                }
            }
        }
    });
}

template <class T, bool INT4>
__device__ __forceinline__ void many_integers(float (&sums)[2][8][4], const ProductParams &p, const T *x,
                                              const PackedReader &w, int row) {
    constexpr int steps = INT4 ? 8 : 4;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int column_tiles = w.w.column_tiles(), row_tiles = w.w.row_tiles();
    for_x_tiles(p, x, [&](int first, const T *shared) {
#pragma unroll 1
        for (int wt = 0; wt < 2; wt++) { // registers for one tile of w at a time
            const int row_tile = row / 16 + wt;
            if (row_tile >= row_tiles) {
                continue;
            }
            float part[8][4] = {};
#pragma unroll 1
            for (int c = 0; c < ManyShape::columns / 16; c += steps) {
                const int tile = (first + 16 * c) / (16 * steps);
                if (tile >= column_tiles) {
                    continue;
                }
                uint32_t words[2][4];
                load_tile(words, w.tile(row_tile, tile));
                GroupWalk walk(w, first + 16 * c);
                LaneScales<T, INT4> scales(w, row_tile * 16 + g, walk.group);
#pragma unroll
                for (int s = 0; s < steps; s++) {
                    if (s > 0 && walk.next(w)) {
#pragma unroll
                        for (int xt = 0; xt < 8; xt++) {
                            wt == 0 ? scales.add(sums[0][xt], part[xt]) : scales.add(sums[1][xt], part[xt]);
                        }
                        scales = LaneScales<T, INT4>(w, row_tile * 16 + g, walk.group);
                    }
                    uint32_t a[4];
                    scales.unpack(a, words, s);
#pragma unroll
                    for (int xt = 0; xt < 8; xt++) {
                        const uint2 b = *reinterpret_cast<const uint2 *>(shared + (xt * 8 + g) * ManyShape::pitch +
                                                                         16 * (c + s) + 4 * t);
                        mma16816<T>(part[xt], a, b.x, b.y);
                    }
                }
#pragma unroll
                for (int xt = 0; xt < 8; xt++) {
                    wt == 0 ? scales.add(sums[0][xt], part[xt]) : scales.add(sums[1][xt], part[xt]);
                }
            }
        }
    });
}

// Grid: x: 128 rows of w, y: 64 rows of x, z: the batch.
template <class T, bool PACKED>
__global__ void __launch_bounds__(ManyShape::threads) multiply_many(const ProductParams p) {
    using S = ManyShape;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row = int(blockIdx.x) * S::w_rows + warp * 32; // of w
    const T *x = static_cast<const T *>(p.x) + blockIdx.z * p.x_batch;
    float sums[2][8][4] = {};
    if constexpr (PACKED) {
        PackedReader w;
        if (!w.read(static_cast<const char *>(p.w), p.packed_bytes, p.n, p.k, p.dtype, sizeof(T))) {
            return;
        }
        if (w.w.format == 0) {
            many_halves<T>(sums, p, x, w.template rows<T>(), w.w.row_pitch(), row);
        } else if (!w.fast()) {
            products_one_by_one<T>(p, w, int(blockIdx.y) * S::x_rows, S::x_rows, int(blockIdx.x) * S::w_rows,
                                   S::w_rows);
            return;
        } else if (w.w.format == 1) {
            many_integers<T, false>(sums, p, x, w, row);
        } else {
            many_integers<T, true>(sums, p, x, w, row);
        }
    } else {
        many_halves<T>(sums, p, x, static_cast<const T *>(p.w) + blockIdx.z * p.w_batch, p.w_row, row);
    }
#pragma unroll
    for (int wt = 0; wt < 2; wt++) {
#pragma unroll
        for (int xt = 0; xt < 8; xt++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int column = row + wt * 16 + i / 2 * 8 + lane / 4;
                const int at = int(blockIdx.y) * S::x_rows + xt * 8 + lane % 4 * 2 + i % 2;
                if (at < p.m && column < p.n) {
                    store_product<T>(p, at, column, sums[wt][xt][i]);
                }
            }
        }
    }
}

// ---- everything else ------------------------------------------------------------------------------------------------

struct PlainProduct {
    static constexpr int rows = 32, columns = 64, terms = 32; // of y; of the sums, at a time
    static constexpr int threads = 256, per_thread = 8;       // a thread has 4 rows and 2 columns
};

// Grid: x: 64 columns of y, y: 32 rows, z: the batch.
template <class T, bool PACKED>
__global__ void __launch_bounds__(PlainProduct::threads) multiply_plain(const ProductParams p) {
    using S = PlainProduct;
    __shared__ float xs[S::terms][S::rows + 1], ws[S::terms][S::columns + 1];
    const T *x = static_cast<const T *>(p.x) + blockIdx.z * p.x_batch;
    const T *w = PACKED ? nullptr : static_cast<const T *>(p.w) + blockIdx.z * p.w_batch;
    PackedReader packed;
    if (PACKED && !packed.read(static_cast<const char *>(p.w), p.packed_bytes, p.n, p.k, p.dtype, sizeof(T))) {
        return;
    }
    const int thread = threadIdx.x, tx = thread % 32, ty = thread / 32;
    const int row = int(blockIdx.y) * S::rows, column = int(blockIdx.x) * S::columns;
    float sums[4][2] = {};
    for (int first = 0; first < p.k; first += S::terms) {
        for (int i = thread; i < S::rows * S::terms; i += S::threads) { // neighbours read what lies together
            const bool along = p.x_column == 1;
            const int r = along ? i / S::terms : i % S::rows, j = along ? i % S::terms : i / S::rows;
            const bool valid = row + r < p.m && first + j < p.k;
            xs[j][r] = valid ? to_float(x[int64_t(row + r) * p.x_row + int64_t(first + j) * p.x_column]) : 0.0f;
        }
        for (int i = thread; i < S::columns * S::terms; i += S::threads) {
            const bool along = PACKED || p.w_column == 1;
            const int c = along ? i / S::terms : i % S::columns, j = along ? i % S::terms : i / S::columns;
            float value = 0.0f;
            if (column + c < p.n && first + j < p.k) {
                value = PACKED ? packed.value<T>(column + c, first + j)
                               : to_float(w[int64_t(column + c) * p.w_row + int64_t(first + j) * p.w_column]);
            }
            ws[j][c] = value;
        }
        __syncthreads();
#pragma unroll 8
        for (int j = 0; j < S::terms; j++) {
            const float low = ws[j][tx], high = ws[j][tx + 32];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float a = xs[j][ty * 4 + i];
                sums[i][0] += a * low;
                sums[i][1] += a * high;
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (row + ty * 4 + i < p.m && column + tx + 32 * h < p.n) {
                store_product<T>(p, row + ty * 4 + i, column + tx + 32 * h, sums[i][h]);
            }
        }
    }
}

} // namespace infiniop::nvidia
