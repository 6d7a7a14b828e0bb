// Attention of many queries on tensor cores, as Dao 2023 (arXiv:2307.08691) does it: a block keeps a tile of rows, the
// keys stream by, the softmax runs online in f32. A warp keeps 16 MT rows and sees all N keys of a step, so that its
// weights stay in registers. While the scores are computed the values arrive, and while the values are summed the next
// keys do.
#pragma once

#include "attention.cuh"

namespace infiniop::nvidia {

// D: head size of the queries and keys, at most; DV: columns of the values that a block sums.
template <int D_, int DV_, int MT_, int N_, int WARPS_> struct RowsShape {
    static constexpr int D = D_, DV = DV_, MT = MT_, N = N_, WARPS = WARPS_;
    static constexpr int threads = 32 * WARPS, rows = 16 * MT * WARPS;
    static constexpr int pitch = D + 8, v_pitch = DV + 8; // an odd number of 16-byte pieces: no bank conflicts
    static constexpr int shared = 2 * (rows * pitch + N * pitch + N * v_pitch);
};

// Keys first … of a sequence into shared memory, zeros beyond limit and beyond `size` columns.
template <class T, int COLUMNS, int N>
__device__ __forceinline__ void load_keys(T *shared, const T *head, const CacheStrides &at, const AttentionParams &p,
                                          int sequence, int first, int limit, int size, int thread, int threads) {
    constexpr int pieces = COLUMNS / 8;
#pragma unroll
    for (int i = thread; i < N * pieces; i += threads) {
        const int row = i / pieces, column = (i - row * pieces) * 8;
        const bool valid = first + row < limit && column < size;
        const T *from = head;
        if (valid) {
            from += KeyRow(p, sequence, first + row).offset(at) + column;
        }
        copy_async_16(shared + row * (COLUMNS + 8) + column, from, valid);
    }
}

// Scores of 16 rows per tile of the warp against N keys.
template <class T, class S>
__device__ __forceinline__ void multiply_keys(float (&scores)[S::MT][S::N / 8][4], const T *q, const T *keys) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int mt = 0; mt < S::MT; mt++) {
#pragma unroll
        for (int n = 0; n < S::N / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                scores[mt][n][i] = 0.0f;
            }
        }
    }
#pragma unroll
    for (int k = 0; k < S::D; k += 16) {
        uint32_t a[S::MT][4];
#pragma unroll
        for (int mt = 0; mt < S::MT; mt++) {
            ldmatrix_x4(a[mt], q + (mt * 16 + lane % 16) * S::pitch + k + lane / 16 * 8);
        }
#pragma unroll
        for (int n = 0; n < S::N / 16; n++) {
            uint32_t b[4];
            ldmatrix_x4(b, keys + (n * 16 + lane / 16 * 8 + lane % 8) * S::pitch + k + lane / 8 % 2 * 8);
#pragma unroll
            for (int mt = 0; mt < S::MT; mt++) {
                mma16816<T>(scores[mt][2 * n], a[mt], b[0], b[1]);
                mma16816<T>(scores[mt][2 * n + 1], a[mt], b[2], b[3]);
            }
        }
    }
}

// sums += weights times values; the scores' fragments of C are the weights' fragments of A.
template <class T, int MT, int N, int DV, int PITCH>
__device__ __forceinline__ void add_values(float (&sums)[MT][DV / 8][4], const float (&weights)[MT][N / 8][4],
                                           const T *values) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N / 16; n++) {
        uint32_t a[MT][4];
#pragma unroll
        for (int mt = 0; mt < MT; mt++) {
            const float (&low)[4] = weights[mt][2 * n], (&high)[4] = weights[mt][2 * n + 1];
            a[mt][0] = pack2<T>(low[0], low[1]);
            a[mt][1] = pack2<T>(low[2], low[3]);
            a[mt][2] = pack2<T>(high[0], high[1]);
            a[mt][3] = pack2<T>(high[2], high[3]);
        }
#pragma unroll
        for (int c = 0; c < DV / 16; c++) {
            uint32_t b[4];
            ldmatrix_x4_transposed(b, values + (n * 16 + lane % 16) * PITCH + c * 16 + lane / 16 * 8);
#pragma unroll
            for (int mt = 0; mt < MT; mt++) {
                mma16816<T>(sums[mt][2 * c], a[mt], b[0], b[1]);
                mma16816<T>(sums[mt][2 * c + 1], a[mt], b[2], b[3]);
            }
        }
    }
}

// The running maximum (of scores times log2 e) and total weight of one row, of which a lane sees the columns of its
// quarter of a group of four lanes.
struct OnlineRow {
    float top = -INFINITY, total = 0.0f;
    int visible = 0;    // keys
    float slope = 0.0f; // times log2 e

    // Scores of keys first + 8 n + 2 t (+ 1) -> weights; the factor of what was summed before. `i`: 0 for the lane's
    // first row of a fragment, 2 for its second.
    template <int NT> __device__ float update(float (&scores)[NT][4], int i, int first, float scale, bool masked) {
        const int column = first + threadIdx.x % 4 * 2;
        float largest = top;
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int t = column + 8 * n + j;
                float x = scores[n][i + j] * scale;
                if (slope != 0.0f) {
                    x += slope * float(t - (visible - 1));
                }
                if (masked && t >= visible) {
                    x = -INFINITY;
                }
                scores[n][i + j] = x;
                largest = fmaxf(largest, x);
            }
        }
        largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, 2));
        const float base = largest == -INFINITY ? 0.0f : largest, factor = exp2_fast(top - base);
        top = largest;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const float weight = exp2_fast(scores[n][i + j] - base);
                scores[n][i + j] = weight;
                sum += weight;
            }
        }
        total = total * factor + sum;
        return factor;
    }

    __device__ float whole_total() const {
        float sum = total + __shfl_xor_sync(all_lanes, total, 1);
        return sum + __shfl_xor_sync(all_lanes, sum, 2);
    }
};

// Grid: tiles of rows, key/value heads, slices of the values' columns.
template <class T, class S> __global__ void __launch_bounds__(S::threads) attend_rows(const AttentionParams p) {
    T *const q = shared_memory<T>(), *const keys = q + S::rows * S::pitch, *const values = keys + S::N * S::pitch;
    __shared__ int bad;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    // Later rows see more keys: they begin first.
    const RowTile tile(p, gridDim.x - 1 - blockIdx.x, S::rows);
    const Sequence s(p, tile.sequence);
    const int rows = s.tokens * p.group, kv_head = blockIdx.y, slice = blockIdx.z * S::DV;
    if (!s.valid || tile.first < 0 || tile.first >= rows) {
        return;
    }
    if (thread == 0) {
        bad = 0;
    }
    __syncthreads();
    if (bad_table(p, s, thread, S::threads)) {
        bad = 1;
    }
    __syncthreads();
    if (bad) {
        return;
    }
    const int last = min(tile.first + S::rows, rows) - 1;
    const int limit = min(s.visible(p, last / p.group), s.length);
    const int certain = s.visible(p, tile.first / p.group); // keys that every row sees
    const T *k_head = static_cast<const T *>(p.k) + kv_head * p.k_at.head;
    const T *v_head = static_cast<const T *>(p.v) + kv_head * p.v_at.head + slice;
    const int v_size = min(p.dv - slice, S::DV);

    for (int i = thread; i < S::rows * (S::D / 8); i += S::threads) {
        const int row = i / (S::D / 8), column = (i - row * (S::D / 8)) * 8;
        const bool valid = tile.first + row < rows && column < p.d;
        const T *from = static_cast<const T *>(p.q);
        if (valid) {
            from = row_of(from, p, p.q_at, s, kv_head, tile.first + row) + column;
        }
        copy_async_16(q + row * S::pitch + column, from, valid);
    }
    load_keys<T, S::D, S::N>(keys, k_head, p.k_at, p, s.index, 0, limit, p.d, thread, S::threads);
    copy_async_commit();

    constexpr float log2e = 1.4426950408889634f;
    const int warp_row = warp * 16 * S::MT;
    OnlineRow online[S::MT][2];
    float sums[S::MT][S::DV / 8][4];
#pragma unroll
    for (int mt = 0; mt < S::MT; mt++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = min(tile.first + warp_row + mt * 16 + half * 8 + lane / 4, rows - 1);
            const int token = row / p.group;
            online[mt][half].visible = s.visible(p, token);
            if (p.slopes) {
                online[mt][half].slope = p.slopes[kv_head * p.group + row - token * p.group] * log2e;
            }
        }
#pragma unroll
        for (int c = 0; c < S::DV / 8; c++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[mt][c][i] = 0.0f;
            }
        }
    }
    const float scale = p.scale * log2e;
    for (int first = 0; first < limit; first += S::N) {
        copy_async_wait<0>();
        __syncthreads(); // the keys are here, and nobody reads the last values any more
        load_keys<T, S::DV, S::N>(values, v_head, p.v_at, p, s.index, first, limit, v_size, thread, S::threads);
        copy_async_commit();
        float scores[S::MT][S::N / 8][4];
        multiply_keys<T, S>(scores, q + warp_row * S::pitch, keys);
        const bool masked = first + S::N > certain;
#pragma unroll
        for (int mt = 0; mt < S::MT; mt++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float factor = online[mt][half].update(scores[mt], 2 * half, first, scale, masked);
#pragma unroll
                for (int c = 0; c < S::DV / 8; c++) {
                    sums[mt][c][2 * half] *= factor;
                    sums[mt][c][2 * half + 1] *= factor;
                }
            }
        }
        copy_async_wait<0>();
        __syncthreads(); // the values are here, and nobody reads the keys any more
        if (first + S::N < limit) {
            load_keys<T, S::D, S::N>(keys, k_head, p.k_at, p, s.index, first + S::N, limit, p.d, thread, S::threads);
            copy_async_commit();
        }
        add_values<T, S::MT, S::N, S::DV, S::v_pitch>(sums, scores, values);
    }
    copy_async_wait<0>();
    if (limit <= 0) {
        __syncthreads(); // the queries of other warps' rows have been copied
    }
    // Each warp's rows of q make room for its results, which then leave 16 bytes at a time.
#pragma unroll
    for (int mt = 0; mt < S::MT; mt++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float total = online[mt][half].whole_total();
            const float factor = total > 0.0f ? 1.0f / (total + p.epsilon) : 0.0f;
            T *row = q + (warp_row + mt * 16 + half * 8 + lane / 4) * S::pitch + lane % 4 * 2;
#pragma unroll
            for (int c = 0; c < S::DV / 8; c++) {
                *reinterpret_cast<uint32_t *>(row + c * 8) =
                    pack2<T>(sums[mt][c][2 * half] * factor, sums[mt][c][2 * half + 1] * factor);
            }
        }
    }
    __syncwarp();
    const bool whole = p.out_at.last == 1 && reinterpret_cast<uintptr_t>(p.out) % 16 == 0 && p.out_at.head % 8 == 0 &&
                       p.out_at.token % 8 == 0 && p.out_at.sequence % 8 == 0;
    constexpr int pieces = S::DV / 8;
    for (int i = lane; i < 16 * S::MT * pieces; i += 32) {
        const int local = i / pieces, column = (i - local * pieces) * 8, row = tile.first + warp_row + local;
        if (row >= rows || column >= v_size || (!p.zeros && s.visible(p, row / p.group) <= 0)) {
            continue;
        }
        T *to = row_of(static_cast<T *>(p.out), p, p.out_at, s, kv_head, row);
        const T *from = q + (warp_row + local) * S::pitch + column;
        if (whole) {
            *reinterpret_cast<uint4 *>(to + slice + column) = *reinterpret_cast<const uint4 *>(from);
        } else {
            for (int j = 0; j < 8; j++) {
                to[(slice + column + j) * p.out_at.last] = from[j];
            }
        }
    }
}

} // namespace infiniop::nvidia
