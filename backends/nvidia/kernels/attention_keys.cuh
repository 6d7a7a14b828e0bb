// Attention of at most 16 rows per sequence and key/value head on tensor cores: decode. What costs is reading keys and
// values, so the keys are divided, among blocks (as many as the device needs to be busy, whatever the lengths are) and
// among the warps of a block; each warp streams its own through its own ring of shared memory, without waiting for the
// others, and reads them once for all the rows. Partial sums meet in attend_combine.
#pragma once

#include "attention_rows.cuh"

namespace infiniop::nvidia {

template <int D_, int DV_> struct KeysShape {
    static constexpr int D = D_, DV = DV_, MT = 1, N = 16;
    static constexpr int pitch = D + 8, v_pitch = DV + 8;
    static constexpr int stages = D <= 128 ? 3 : 2;
    static constexpr int stage = N * (pitch + v_pitch); // elements
    static constexpr int q_bytes = 2 * 16 * pitch, warp_bytes = 2 * stages * stage;
    static_assert(warp_bytes >= 4 * 16 * DV, "a warp's ring must hold its sums");
    static constexpr int most_warps = 4;
    static constexpr int shared(int warps) { return q_bytes + warps * warp_bytes; }
};

// Which sequence, head, tile of rows, slice of columns and split of the keys a block works on.
struct SplitBlock {
    int split, slice, tile, kv_head, sequence;

    __device__ SplitBlock(const AttentionParams &p, unsigned block) {
        split = block % p.splits;
        block /= p.splits;
        slice = block % p.slices;
        block /= p.slices;
        tile = block % p.row_tiles;
        block /= p.row_tiles;
        kv_head = block % p.kv_heads;
        sequence = block / p.kv_heads;
    }

    __device__ int64_t row(const AttentionParams &p, int row) const {
        return (int64_t(sequence) * p.kv_heads + kv_head) * p.tokens * p.group + row;
    }
};

constexpr float poison = NAN; // the maximum of a split that met a table's entry which is no block

// Grid: SplitBlock. Threads: 32 per warp, up to four warps.
template <class T, class S> __global__ void __launch_bounds__(32 * S::most_warps) attend_keys(const AttentionParams p) {
    T *const q = shared_memory<T>();
    __shared__ float warp_top[S::most_warps][16], warp_total[S::most_warps][16];
    __shared__ int bad;
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, warps = blockDim.x / 32;
    const SplitBlock block(p, blockIdx.x);
    const Sequence s(p, block.sequence);
    const int rows = s.tokens * p.group, first_row = block.tile * 16, slice = block.slice * S::DV;
    const int limit = min(s.visible(p, (min(first_row + 16, rows) - 1) / p.group), s.length);
    const Split split(p, limit);
    if (!s.valid || block.split >= max(split.active, 1) || (limit <= 0 && !p.zeros)) {
        return;
    }
    T *const ring = q + 16 * S::pitch + warp * (S::warp_bytes / 2);
    const T *k_head = static_cast<const T *>(p.k) + block.kv_head * p.k_at.head;
    const T *v_head = static_cast<const T *>(p.v) + block.kv_head * p.v_at.head + slice;
    const int v_size = min(p.dv - slice, S::DV);
    if (thread == 0) {
        bad = 0;
    }
    for (int i = thread; i < 16 * (S::D / 8); i += blockDim.x) {
        const int row = i / (S::D / 8), column = (i - row * (S::D / 8)) * 8;
        const bool valid = first_row + row < rows && column < p.d;
        const T *from = static_cast<const T *>(p.q);
        if (valid) {
            from = row_of(from, p, p.q_at, s, block.kv_head, first_row + row) + column;
        }
        copy_async_16(q + row * S::pitch + column, from, valid);
    }
    copy_async_commit();

    // Four lanes load a key's row, 64 bytes at a time; a lane has the rows lane / 4 and lane / 4 + 8 of a step.
    const int end = min(split.steps, (block.split + 1) * split.share);
    int step = block.split * split.share + warp;
    bool met_bad = false;
    const auto load = [&](int at, int stage) {
        if (at < end) {
            T *const keys = ring + stage * S::stage, *const values = keys + 16 * S::pitch;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = lane / 4 + 8 * half, t = at * 16 + row;
                bool valid = t < limit;
                int64_t k_offset = 0, v_offset = 0;
                if (valid) {
                    const KeyRow key(p, s.index, t);
                    valid = key.block >= 0;
                    met_bad = met_bad || !valid;
                    k_offset = key.offset(p.k_at);
                    v_offset = key.offset(p.v_at);
                }
                const T *k_row = valid ? k_head + k_offset : k_head, *v_row = valid ? v_head + v_offset : v_head;
#pragma unroll
                for (int i = 0; i < (S::D / 8 + 3) / 4; i++) {
                    const int column = (i * 4 + lane % 4) * 8;
                    if (S::D % 32 == 0 || column < S::D) {
                        const bool inside = valid && column < p.d;
                        copy_async_16(keys + row * S::pitch + column, inside ? k_row + column : k_row, inside);
                    }
                }
#pragma unroll
                for (int i = 0; i < (S::DV / 8 + 3) / 4; i++) {
                    const int column = (i * 4 + lane % 4) * 8;
                    if (S::DV % 32 == 0 || column < S::DV) {
                        const bool inside = valid && column < v_size;
                        copy_async_16(values + row * S::v_pitch + column, inside ? v_row + column : v_row, inside);
                    }
                }
            }
        }
        copy_async_commit();
    };
#pragma unroll
    for (int i = 0; i < S::stages - 1; i++) {
        load(step + i * warps, i);
    }

    constexpr float log2e = 1.4426950408889634f;
    OnlineRow online[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = min(first_row + half * 8 + lane / 4, rows - 1), token = row / p.group;
        online[half].visible = s.visible(p, token);
        if (p.slopes) {
            online[half].slope = p.slopes[block.kv_head * p.group + row - token * p.group] * log2e;
        }
    }
    float sums[1][S::DV / 8][4] = {};
    copy_async_wait<S::stages - 1>();
    __syncthreads(); // the queries are here, for all warps
    const float scale = p.scale * log2e;
    for (int stage = 0; step < end; step += warps) {
        copy_async_wait<S::stages - 2>();
        __syncwarp();
        load(step + (S::stages - 1) * warps, stage == 0 ? S::stages - 1 : stage - 1);
        const T *keys = ring + stage * S::stage, *values = keys + 16 * S::pitch;
        float scores[1][2][4];
        multiply_keys<T, S>(scores, q, keys);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const float factor = online[half].update(scores[0], 2 * half, step * 16, scale, true);
#pragma unroll
            for (int c = 0; c < S::DV / 8; c++) {
                sums[0][c][2 * half] *= factor;
                sums[0][c][2 * half + 1] *= factor;
            }
        }
        add_values<T, 1, 16, S::DV, S::v_pitch>(sums, scores, values);
        __syncwarp(); // before the next load overwrites this stage
        stage = stage + 1 == S::stages ? 0 : stage + 1;
    }
    copy_async_wait<0>();
    if (met_bad) {
        bad = 1;
    }

    // The warps' sums meet, in the rings.
    __syncwarp();
    float *const warp_sums = reinterpret_cast<float *>(ring);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = half * 8 + lane / 4;
        const float total = online[half].whole_total();
        if (lane % 4 == 0) {
            warp_top[warp][row] = online[half].top;
            warp_total[warp][row] = total;
        }
#pragma unroll
        for (int c = 0; c < S::DV / 8; c++) {
            float *to = warp_sums + row * S::DV + c * 8 + lane % 4 * 2;
            to[0] = sums[0][c][2 * half];
            to[1] = sums[0][c][2 * half + 1];
        }
    }
    __syncthreads();
    for (int i = thread; i < 16 * S::DV; i += blockDim.x) {
        const int row = i / S::DV, column = i - row * S::DV;
        if (first_row + row >= rows || column >= v_size) {
            continue;
        }
        float top = -INFINITY, total = 0.0f, sum = 0.0f;
        for (int w = 0; w < warps; w++) {
            top = fmaxf(top, warp_top[w][row]);
        }
        for (int w = 0; w < warps; w++) {
            const float factor = top == -INFINITY ? 0.0f : exp2_fast(warp_top[w][row] - top);
            total += warp_total[w][row] * factor;
            sum += reinterpret_cast<const float *>(q + 16 * S::pitch + w * (S::warp_bytes / 2))[i] * factor;
        }
        if (split.active > 1) {
            const int64_t at = block.row(p, first_row + row);
            partial_sums(p, at, block.split)[slice + column] = sum;
            if (column == 0) {
                float *weights = partial_weights(p, at, block.split);
                weights[0] = bad ? poison : top;
                weights[1] = total;
            }
        } else if (!bad && (p.zeros || s.visible(p, (first_row + row) / p.group) > 0)) {
            T *to = row_of(static_cast<T *>(p.out), p, p.out_at, s, block.kv_head, first_row + row);
            to[(slice + column) * p.out_at.last] = from_float<T>(total > 0.0f ? sum / (total + p.epsilon) : 0.0f);
        }
    }
}

__device__ __forceinline__ float split_factor(const AttentionParams &p, float difference) {
    return p.natural ? expf(difference) : exp2_fast(difference);
}

// What the splits of a row make together. Grid: rows of all sequences and heads; threads share the columns.
template <class T> __global__ void attend_combine(const AttentionParams p) {
    const int64_t row = blockIdx.x;
    const int per_head = p.tokens * p.group, local = int(row % per_head), head = int(row / per_head % p.kv_heads);
    const Sequence s(p, int(row / per_head / p.kv_heads));
    const int last = min(local / 16 * 16 + 16, per_head) - 1;
    const Split split(p, min(s.visible(p, last / p.group), s.length));
    if (!s.valid || split.active <= 1 || (!p.zeros && s.visible(p, local / p.group) <= 0)) {
        return;
    }
    float top = -INFINITY, total = 0.0f;
    bool bad = false;
    for (int i = 0; i < split.active; i++) {
        const float of_split = partial_weights(p, row, i)[0];
        bad = bad || of_split != of_split;
        top = fmaxf(top, of_split);
    }
    if (bad) {
        return;
    }
    const float base = top == -INFINITY ? 0.0f : top;
    for (int i = 0; i < split.active; i++) {
        const float *weights = partial_weights(p, row, i);
        total += weights[1] * split_factor(p, weights[0] - base);
    }
    T *to = row_of(static_cast<T *>(p.out), p, p.out_at, s, head, local);
    for (int column = threadIdx.x; column < p.dv; column += blockDim.x) {
        float sum = 0.0f;
        for (int i = 0; i < split.active; i++) {
            sum += partial_sums(p, row, i)[column] * split_factor(p, partial_weights(p, row, i)[0] - base);
        }
        to[column * p.out_at.last] = from_float<T>(total > 0.0f ? sum / (total + p.epsilon) : 0.0f);
    }
}

} // namespace infiniop::nvidia
