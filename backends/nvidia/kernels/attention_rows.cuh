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

// Keys first … of a sequence into shared memory, zeros beyond limit (which is positive) and beyond `size` columns; the
// table's entries are blocks. Eight lanes load a key's row, 128 bytes at a time, so that a lane finds few rows.
template <class T, int COLUMNS, int N, int THREADS>
__device__ __forceinline__ void load_keys(T *shared, const T *head, const CacheStrides &at, const AttentionParams &p,
                                          const BlockTable &table, int first, int limit, int size) {
    constexpr int together = THREADS / 8; // rows
    const int lane_row = threadIdx.x / 8, lane_column = threadIdx.x % 8 * 8;
    T *const to = shared + lane_row * (COLUMNS + 8) + lane_column;
#pragma unroll
    for (int i = 0; i < N; i += together) {
        const int t = first + lane_row + i;
        const T *from = head + KeyRow(p, table, min(t, limit - 1)).offset(at) + lane_column;
#pragma unroll
        for (int c = 0; c < COLUMNS; c += 64) {
            if (c + 64 <= COLUMNS || c + lane_column < COLUMNS) {
                copy_async_16(to + i * (COLUMNS + 8) + c, from + c, t < limit && c + lane_column < size);
            }
        }
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

// Scores' fragments of C as weights' fragments of A.
template <class T, int MT, int N>
__device__ __forceinline__ void pack_weights(uint32_t (&weights)[MT][N / 16][4], const float (&scores)[MT][N / 8][4]) {
#pragma unroll
    for (int mt = 0; mt < MT; mt++) {
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float (&from)[4] = scores[mt][2 * n + i / 2];
                weights[mt][n][i] = pack2<T>(from[i % 2 * 2], from[i % 2 * 2 + 1]);
            }
        }
    }
}

// sums += weights times values
template <class T, int MT, int N, int DV, int PITCH>
__device__ __forceinline__ void add_values(float (&sums)[MT][DV / 8][4], const uint32_t (&weights)[MT][N / 16][4],
                                           const T *values) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N / 16; n++) {
#pragma unroll
        for (int c = 0; c < DV / 16; c++) {
            uint32_t b[4];
            ldmatrix_x4_transposed(b, values + (n * 16 + lane % 16) * PITCH + c * 16 + lane / 16 * 8);
#pragma unroll
            for (int mt = 0; mt < MT; mt++) {
                mma16816<T>(sums[mt][2 * c], weights[mt][n], b[0], b[1]);
                mma16816<T>(sums[mt][2 * c + 1], weights[mt][n], b[2], b[3]);
            }
        }
    }
}

// What most launches and most keys do not need of a score, apart, so that they need not wait for it. `row` of the
// sequence and key/value head; a lane has the keys first + 8 n + 2 t (+ 1) of its fragments' rows: the first at `i` 0,
// the second at 2.
struct Scores {
    const AttentionParams &p;
    const Sequence &s;
    int kv_head;
    bool plain;   // no slopes, and the largest product is the largest score
    float factor; // of products: what makes exponents of 2

    __device__ Scores(const AttentionParams &p, const Sequence &s, int kv_head)
        : p(p), s(s), kv_head(kv_head), plain(!p.slopes && p.scale > 0.0f), factor(plain ? p.scale * log2e : 1.0f) {}

    template <int NT>
    __device__ __forceinline__ void add_slope(float (&scores)[NT][4], int i, int first, int row) const {
        const int token = row / p.by_group, after = first + threadIdx.x % 4 * 2 - (s.visible(p, token) - 1);
        const float slope = p.slopes ? p.slopes[kv_head * p.group + row - token * p.group] * log2e : 0.0f;
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                scores[n][i + j] = scores[n][i + j] * (p.scale * log2e) + slope * float(after + 8 * n + j);
            }
        }
    }

    template <int NT> __device__ __forceinline__ void hide(float (&scores)[NT][4], int i, int first, int row) const {
        const int left = s.visible(p, row / p.by_group) - (first + threadIdx.x % 4 * 2);
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                scores[n][i + j] = 8 * n + j < left ? scores[n][i + j] : -INFINITY;
            }
        }
    }
};

// The running maximum (of exponents of 2) and total weight of one row, of which a lane sees the columns of its quarter
// of a group of four lanes.
struct OnlineRow {
    float top = -INFINITY, total = 0.0f;

    // Scores, times `scale` exponents of 2, -> weights; the factor of what was summed before. `i` as in Scores.
    template <int NT> __device__ __forceinline__ float update(float (&scores)[NT][4], int i, float scale) {
        float largest = -INFINITY;
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                largest = fmaxf(largest, scores[n][i + j]);
            }
        }
        largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, 2));
        largest = fmaxf(top, largest * scale);
        const float base = largest == -INFINITY ? 0.0f : largest, factor = exp2_fast(top - base);
        top = largest;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < NT; n++) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const float weight = exp2_fast(scores[n][i + j] * scale - base);
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
    __shared__ Sequence s; // in shared memory, as first_row is: the loop over keys leaves few registers
    __shared__ int first_row;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int kv_head = blockIdx.y, slice = blockIdx.z * S::DV;
    if (thread == 0) { // later rows see more keys: they begin first
        const RowTile tile(p, gridDim.x - 1 - blockIdx.x, S::rows);
        s = Sequence(p, tile.sequence);
        first_row = tile.first;
    }
    __syncthreads();
    if (!s.valid || first_row < 0 || first_row >= s.tokens * p.group) {
        return;
    }
    if (__syncthreads_or(bad_table(p, s, thread, S::threads))) {
        return;
    }
    const int last = min(first_row + S::rows, s.tokens * p.group) - 1;
    const int limit = min(s.visible(p, last / p.by_group), s.length);
    const int certain = s.visible(p, first_row / p.by_group); // keys that every row sees
    const BlockTable table(p, s.index);
    const T *k_head = static_cast<const T *>(p.k) + kv_head * p.k_at.head;
    const T *v_head = static_cast<const T *>(p.v) + kv_head * p.v_at.head + slice;
    const int v_size = min(p.dv - slice, S::DV);

    for (int i = thread; i < S::rows * (S::D / 8); i += S::threads) {
        const int row = i / (S::D / 8), column = (i - row * (S::D / 8)) * 8;
        const bool valid = first_row + row <= last && column < p.d;
        const T *from = static_cast<const T *>(p.q);
        if (valid) {
            from = row_of(from, p, p.q_at, s, kv_head, first_row + row) + column;
        }
        copy_async_16(q + row * S::pitch + column, from, valid);
    }
    if (limit > 0) {
        load_keys<T, S::D, S::N, S::threads>(keys, k_head, p.k_at, p, table, 0, limit, p.d);
    }
    copy_async_commit();

    const int warp_row = warp * 16 * S::MT;
    OnlineRow online[S::MT][2];
    float sums[S::MT][S::DV / 8][4];
#pragma unroll
    for (int mt = 0; mt < S::MT; mt++) {
#pragma unroll
        for (int c = 0; c < S::DV / 8; c++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[mt][c][i] = 0.0f;
            }
        }
    }
    const Scores form(p, s, kv_head);
    for (int first = 0; first < limit; first += S::N) {
        copy_async_wait<0>();
        __syncthreads(); // the keys are here, and nobody reads the last values any more
        load_keys<T, S::DV, S::N, S::threads>(values, v_head, p.v_at, p, table, first, limit, v_size);
        copy_async_commit();
        float scores[S::MT][S::N / 8][4];
        multiply_keys<T, S>(scores, q + warp_row * S::pitch, keys);
        const bool masked = first + S::N > certain;
#pragma unroll
        for (int mt = 0; mt < S::MT; mt++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = min(first_row + warp_row + mt * 16 + half * 8 + lane / 4, s.tokens * p.group - 1);
                if (!form.plain) {
                    form.add_slope(scores[mt], 2 * half, first, row);
                }
                if (masked) {
                    form.hide(scores[mt], 2 * half, first, row);
                }
            }
        }
#pragma unroll
        for (int mt = 0; mt < S::MT; mt++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float factor = online[mt][half].update(scores[mt], 2 * half, form.factor);
#pragma unroll
                for (int c = 0; c < S::DV / 8; c++) {
                    sums[mt][c][2 * half] *= factor;
                    sums[mt][c][2 * half + 1] *= factor;
                }
            }
        }
        uint32_t weights[S::MT][S::N / 16][4];
        pack_weights<T, S::MT, S::N>(weights, scores);
        copy_async_wait<0>();
        __syncthreads(); // the values are here, and nobody reads the keys any more
        if (first + S::N < limit) {
            load_keys<T, S::D, S::N, S::threads>(keys, k_head, p.k_at, p, table, first + S::N, limit, p.d);
            copy_async_commit();
        }
        add_values<T, S::MT, S::N, S::DV, S::v_pitch>(sums, weights, values);
    }
    if (limit <= 0) { // the queries that other warps copied are here
        copy_async_wait<0>();
        __syncthreads();
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
        const int local = i / pieces, column = (i - local * pieces) * 8, row = first_row + warp_row + local;
        if (row >= s.tokens * p.group || column >= v_size || (!p.zeros && s.visible(p, row / p.by_group) <= 0)) {
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
