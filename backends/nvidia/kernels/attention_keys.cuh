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
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, warps = blockDim.x / 32;
    const SplitBlock block(p, blockIdx.x);
    const Sequence s(p, block.sequence);
    const int rows = s.tokens * p.group, first_row = block.tile * 16, slice = block.slice * S::DV;
    const int limit = min(s.visible(p, (min(first_row + 16, rows) - 1) / p.by_group), s.length);
    const Split split(p, limit);
    if (!s.valid || block.split >= max(split.active, 1) || (limit <= 0 && !p.zeros)) {
        return;
    }
    T *const ring = q + 16 * S::pitch + warp * (S::warp_bytes / 2);
    const BlockTable table(p, s.index);
    const T *k_head = static_cast<const T *>(p.k) + block.kv_head * p.k_at.head;
    const T *v_head = static_cast<const T *>(p.v) + block.kv_head * p.v_at.head + slice;
    const int v_size = min(p.dv - slice, S::DV);
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

    // Four lanes load a key's row, 64 bytes at a time; a lane has the rows lane / 4 and lane / 4 + 8 of a step. Where
    // they lie has been read from the table one step before.
    const int end = min(split.steps, (block.split + 1) * split.share);
    int step = block.split * split.share + warp;
    bool met_bad = false;
    KeyRow next[2];
    const auto find = [&](int at) {
        if (at < end) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                next[half] = KeyRow(p, table, min(at * 16 + 8 * half + lane / 4, limit - 1), true);
            }
        }
    };
    const auto load = [&](int at, int stage) {
        if (at < end) {
            T *const keys = ring + stage * S::stage, *const values = keys + 16 * S::pitch;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = lane / 4 + 8 * half;
                const bool good = next[half].block >= 0, valid = good && at * 16 + row < limit;
                met_bad = met_bad || !good;
                const T *k_row = k_head + next[half].offset(p.k_at), *v_row = v_head + next[half].offset(p.v_at);
#pragma unroll
                for (int i = 0; i < (S::D / 8 + 3) / 4; i++) {
                    const int column = (i * 4 + lane % 4) * 8;
                    if (S::D % 32 == 0 || column < S::D) {
                        copy_async_16(keys + row * S::pitch + column, k_row + column, valid && column < p.d);
                    }
                }
#pragma unroll
                for (int i = 0; i < (S::DV / 8 + 3) / 4; i++) {
                    const int column = (i * 4 + lane % 4) * 8;
                    if (S::DV % 32 == 0 || column < S::DV) {
                        copy_async_16(values + row * S::v_pitch + column, v_row + column, valid && column < v_size);
                    }
                }
            }
        }
        copy_async_commit();
        find(at + warps);
    };
    find(step);
#pragma unroll
    for (int i = 0; i < S::stages - 1; i++) {
        load(step + i * warps, i);
    }

    OnlineRow online[2];
    float sums[1][S::DV / 8][4] = {};
    copy_async_wait<S::stages - 1>();
    __syncthreads(); // the queries are here, for all warps
    const Scores form(p, s, block.kv_head);
    const int certain = s.visible(p, first_row / p.by_group); // keys that every row sees
    for (int stage = 0; step < end; step += warps) {
        copy_async_wait<S::stages - 2>();
        __syncwarp(); // all lanes' copies are here, and nobody reads the stage that the next load overwrites any more
        load(step + (S::stages - 1) * warps, stage == 0 ? S::stages - 1 : stage - 1);
        const T *keys = ring + stage * S::stage, *values = keys + 16 * S::pitch;
        float scores[1][2][4];
        multiply_keys<T, S>(scores, q, keys);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = min(first_row + half * 8 + lane / 4, rows - 1);
            if (!form.plain) {
                form.add_slope(scores[0], 2 * half, step * 16, row);
            }
            if (step * 16 + 16 > certain) {
                form.hide(scores[0], 2 * half, step * 16, row);
            }
            const float factor = online[half].update(scores[0], 2 * half, form.factor);
#pragma unroll
            for (int c = 0; c < S::DV / 8; c++) {
                sums[0][c][2 * half] *= factor;
                sums[0][c][2 * half + 1] *= factor;
            }
        }
        uint32_t weights[1][1][4];
        pack_weights<T, 1, 16>(weights, scores);
        add_values<T, 1, 16, S::DV, S::v_pitch>(sums, weights, values);
        stage = stage + 1 == S::stages ? 0 : stage + 1;
    }

    // The warps' sums meet, in the rings, where all copies have arrived: a warp has waited for those of its last step.
    __syncwarp(); // nobody reads the last values any more
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
    const bool bad = __syncthreads_or(met_bad);
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
            if (slice == 0 && column == 0) { // the other slices have the same
                float *weights = partial_weights(p, at, block.split);
                weights[0] = bad ? poison : top;
                weights[1] = total;
            }
        } else if (!bad && (p.zeros || s.visible(p, (first_row + row) / p.by_group) > 0)) {
            T *to = row_of(static_cast<T *>(p.out), p, p.out_at, s, block.kv_head, first_row + row);
            to[(slice + column) * p.out_at.last] = from_float<T>(total > 0.0f ? sum / (total + p.epsilon) : 0.0f);
        }
    }
}

__device__ __forceinline__ float split_factor(const AttentionParams &p, float difference) {
    return p.natural ? expf(difference) : exp2_fast(difference);
}

constexpr int combine_warps = 8, combine_columns = 128;

// What the splits of a row make together. Grid: rows of all sequences and heads. The warps share the splits, the lanes
// the columns.
template <class T> __global__ void __launch_bounds__(32 * combine_warps) attend_combine(const AttentionParams p) {
    __shared__ float warp_sums[combine_warps][combine_columns], warp_total[combine_warps];
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int64_t row = blockIdx.x;
    const int per_head = p.tokens * p.group, local = int(row % per_head), head = int(row / per_head % p.kv_heads);
    const Sequence s(p, int(row / per_head / p.kv_heads));
    const int last = min(local / 16 * 16 + 16, per_head) - 1;
    const Split split(p, min(s.visible(p, last / p.by_group), s.length));
    if (!s.valid || split.active <= 1 || (!p.zeros && s.visible(p, local / p.by_group) <= 0)) {
        return;
    }
    float top = -INFINITY;
    for (int i = thread; i < split.active; i += 32 * combine_warps) {
        top = Max()(top, partial_weights(p, row, i)[0]);
    }
    top = block_reduce(top, Max(), -INFINITY);
    if (top != top) {
        return; // a table's entry is no block
    }
    const float base = top == -INFINITY ? 0.0f : top;
    T *to = row_of(static_cast<T *>(p.out), p, p.out_at, s, head, local);
    for (int first = 0; first < p.dv; first += combine_columns) {
        float sums[combine_columns / 32] = {}, total = 0.0f;
#pragma unroll 4
        for (int i = warp; i < split.active; i += combine_warps) {
            const float *weights = partial_weights(p, row, i), *from = partial_sums(p, row, i) + first + lane;
            const float factor = split_factor(p, weights[0] - base);
            total += weights[1] * factor;
#pragma unroll
            for (int c = 0; c < combine_columns / 32; c++) {
                if (first + lane + 32 * c < p.dv) {
                    sums[c] += from[32 * c] * factor;
                }
            }
        }
        if (lane == 0) {
            warp_total[warp] = total;
        }
#pragma unroll
        for (int c = 0; c < combine_columns / 32; c++) {
            warp_sums[warp][lane + 32 * c] = sums[c];
        }
        __syncthreads();
        if (thread < combine_columns && first + thread < p.dv) {
            float sum = 0.0f;
            total = 0.0f;
#pragma unroll
            for (int w = 0; w < combine_warps; w++) {
                sum += warp_sums[w][thread];
                total += warp_total[w];
            }
            to[(first + thread) * p.out_at.last] = from_float<T>(total > 0.0f ? sum / (total + p.epsilon) : 0.0f);
        }
        __syncthreads(); // before the next columns' sums
    }
}

} // namespace infiniop::nvidia
