// Attention in f32 arithmetic for any element type, head size and strides: f32, and what tensor cores cannot take. A
// block has 16 rows, four per warp. A lane scores one key of 32, then sums the columns lane, lane + 32 … of the values.
#pragma once

#include "attention_keys.cuh"

namespace infiniop::nvidia {

struct PlainShape {
    static constexpr int rows = 16, warps = 4, per_warp = rows / warps, keys = 32;
    static constexpr int part = 128;    // elements of a head that lie in shared memory at a time
    static constexpr int columns = 256; // of the values that a block sums
    static constexpr int pitch = part + 4;
    static constexpr int shared = 4 * (rows * pitch + keys * (columns + 4));
};

// Grid: SplitBlock; with starts, x: tiles of rows, y: key/value heads, z: slices. Unlike the half types' kernels, it
// takes e to the power of a score, which f32's accuracy needs.
template <class T> __global__ void __launch_bounds__(32 * PlainShape::warps) attend_plain(const AttentionParams p) {
    using S = PlainShape;
    float *const q = shared_memory<float>(), *const cache = q + S::rows * S::pitch;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    SplitBlock block(p, blockIdx.x);
    int first_row = block.tile * S::rows;
    if (p.starts) {
        const RowTile tile(p, gridDim.x - 1 - blockIdx.x, S::rows);
        first_row = tile.first;
        block.sequence = tile.sequence;
        block.kv_head = blockIdx.y;
        block.slice = blockIdx.z;
        block.split = 0;
    }
    const Sequence s(p, block.sequence);
    const int rows = s.tokens * p.group, slice = block.slice * S::columns;
    if (!s.valid || first_row < 0 || first_row >= rows) {
        return;
    }
    const int limit = min(s.visible(p, (min(first_row + S::rows, rows) - 1) / p.by_group), s.length);
    const Split split(p, limit);
    if (block.split >= max(split.active, 1)) {
        return;
    }
    const int begin = block.split * split.share * 16, end = min(limit, begin + split.share * 16);
    if (__syncthreads_or(bad_table(p, s, thread, 32 * S::warps))) {
        if (split.active > 1 && slice == 0 && thread < S::rows && first_row + thread < rows) {
            partial_weights(p, block.row(p, first_row + thread), block.split)[0] = poison;
        }
        return;
    }
    const BlockTable table(p, s.index);
    const T *k_head = static_cast<const T *>(p.k) + block.kv_head * p.k_at.head;
    const T *v_head = static_cast<const T *>(p.v) + block.kv_head * p.v_at.head + slice * p.v_at.last;
    const int v_size = min(p.dv - slice, S::columns);

    float top[S::per_warp], total[S::per_warp], sums[S::per_warp][S::columns / 32] = {}, slope[S::per_warp];
    int visible[S::per_warp];
#pragma unroll
    for (int r = 0; r < S::per_warp; r++) {
        const int row = min(first_row + warp * S::per_warp + r, rows - 1), token = row / p.by_group;
        top[r] = -INFINITY;
        total[r] = 0.0f;
        visible[r] = s.visible(p, token);
        slope[r] = p.slopes ? p.slopes[block.kv_head * p.group + row - token * p.group] : 0.0f;
    }
    for (int first = begin; first < end; first += S::keys) {
        float scores[S::per_warp] = {};
        for (int from = 0; from < p.d; from += S::part) {
            const int count = min(p.d - from, S::part);
            __syncthreads();
            for (int i = thread; i < S::rows * count; i += 32 * S::warps) {
                const int row = i / count, column = i - row * count;
                const T *at =
                    row_of(static_cast<const T *>(p.q), p, p.q_at, s, block.kv_head, min(first_row + row, rows - 1));
                q[row * S::pitch + column] = to_float(at[(from + column) * p.q_at.last]);
            }
            for (int row = warp; row < S::keys; row += S::warps) {
                const bool valid = first + row < end;
                const T *at = k_head + (valid ? KeyRow(p, table, first + row).offset(p.k_at) : 0);
                for (int column = lane; column < count; column += 32) {
                    cache[row * (S::part + 1) + column] = valid ? to_float(at[(from + column) * p.k_at.last]) : 0.0f;
                }
            }
            __syncthreads();
            const float *key = cache + lane * (S::part + 1), *query = q + warp * S::per_warp * S::pitch;
#pragma unroll 4
            for (int i = 0; i < count; i++) {
#pragma unroll
                for (int r = 0; r < S::per_warp; r++) {
                    scores[r] += query[r * S::pitch + i] * key[i];
                }
            }
        }
        __syncthreads();
        for (int row = warp; row < S::keys; row += S::warps) {
            const bool valid = first + row < end;
            const T *at = v_head + (valid ? KeyRow(p, table, first + row).offset(p.v_at) : 0);
            for (int column = lane; column < v_size; column += 32) {
                cache[row * S::columns + column] = valid ? to_float(at[column * p.v_at.last]) : 0.0f;
            }
        }
        __syncthreads();
        const int t = first + lane;
#pragma unroll
        for (int r = 0; r < S::per_warp; r++) {
            float x = scores[r] * p.scale + (slope[r] != 0.0f ? slope[r] * float(t - (visible[r] - 1)) : 0.0f);
            x = t < visible[r] && t < end ? x : -INFINITY;
            float largest = fmaxf(top[r], x);
            for (int i = 16; i > 0; i /= 2) {
                largest = fmaxf(largest, __shfl_xor_sync(all_lanes, largest, i));
            }
            const float base = largest == -INFINITY ? 0.0f : largest, factor = expf(top[r] - base);
            const float weight = expf(x - base);
            top[r] = largest;
            total[r] = total[r] * factor + weight; // this lane's part
#pragma unroll
            for (int c = 0; c < S::columns / 32; c++) {
                sums[r][c] *= factor;
            }
            scores[r] = weight;
        }
        for (int i = 0; i < S::keys; i++) {
            float weight[S::per_warp];
#pragma unroll
            for (int r = 0; r < S::per_warp; r++) {
                weight[r] = __shfl_sync(all_lanes, scores[r], i);
            }
#pragma unroll
            for (int c = 0; c < S::columns / 32; c++) {
                if (c * 32 + lane < v_size) {
                    const float value = cache[i * S::columns + c * 32 + lane];
#pragma unroll
                    for (int r = 0; r < S::per_warp; r++) {
                        sums[r][c] += weight[r] * value;
                    }
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < S::per_warp; r++) {
        for (int i = 16; i > 0; i /= 2) {
            total[r] += __shfl_xor_sync(all_lanes, total[r], i);
        }
        const int row = first_row + warp * S::per_warp + r;
        if (row >= rows) {
            continue;
        }
        const bool written = p.zeros || visible[r] > 0;
        T *to = row_of(static_cast<T *>(p.out), p, p.out_at, s, block.kv_head, row) + slice * p.out_at.last;
        const int64_t at = split.active > 1 ? block.row(p, row) : 0;
        const float factor = total[r] > 0.0f ? 1.0f / (total[r] + p.epsilon) : 0.0f;
#pragma unroll
        for (int c = 0; c < S::columns / 32; c++) {
            const int column = c * 32 + lane;
            if (column < v_size && split.active > 1) {
                partial_sums(p, at, block.split)[slice + column] = sums[r][c];
            } else if (column < v_size && written) {
                to[column * p.out_at.last] = from_float<T>(sums[r][c] * factor);
            }
        }
        if (split.active > 1 && slice == 0 && lane == 0) { // the other slices have the same
            float *weights = partial_weights(p, at, block.split);
            weights[0] = top[r];
            weights[1] = total[r];
        }
    }
}

} // namespace infiniop::nvidia
