// The instances of the tensor cores' attention kernels of one element type, by head size.
#pragma once

#include "attention_keys.cuh"
#include "attention_plan.h"

namespace infiniop::nvidia {

template <class T, class S> Status launch_rows(AttentionParams p, infinirtStream_t stream) {
    p.row_tiles = int(ceil_div(int64_t(p.tokens) * p.group, S::rows));
    const dim3 grid(row_tile_blocks(p, S::rows), p.kv_heads, p.slices);
    return launch(attend_rows<T, S>, grid, S::threads, S::shared, stream, p);
}

template <class T, class S>
Status launch_keys(const AttentionParams &p, const Limits &limits, infinirtStream_t stream) {
    int warps = S::most_warps;
    while (warps > 1 && S::shared(warps) + 1024 > limits.shared_per_block) {
        warps--;
    }
    const unsigned blocks = row_tile_blocks(p, attention_tile) * p.kv_heads * p.slices * p.splits;
    return launch(attend_keys<T, S>, blocks, 32 * warps, S::shared(warps), stream, p);
}

// D: the head size, rounded up; MT, N, WARPS: of RowsShape.
template <class T, int D, int DV, int MT, int N, int WARPS>
Status launch_shape(const AttentionParams &p, AttentionForm form, const Limits &limits, infinirtStream_t stream) {
    return form == AttentionForm::keys ? launch_keys<T, KeysShape<D, DV>>(p, limits, stream)
                                       : launch_rows<T, RowsShape<D, DV, MT, N, WARPS>>(p, stream);
}

template <class T>
Status attend_half(const AttentionParams &p, AttentionForm form, const Limits &limits, infinirtStream_t stream) {
    const int size = p.d > p.dv ? p.d : p.dv;
    return size <= 64    ? launch_shape<T, 64, 64, 2, 64, 4>(p, form, limits, stream)
           : size <= 96  ? launch_shape<T, 96, 96, 2, 64, 4>(p, form, limits, stream)
           : size <= 128 ? launch_shape<T, 128, 128, 2, 64, 4>(p, form, limits, stream)
           : size <= 192 ? launch_shape<T, 192, 192, 1, 64, 4>(p, form, limits, stream)
           : size <= 256 ? launch_shape<T, 256, 256, 1, 32, 4>(p, form, limits, stream)
                         : launch_shape<T, most_half_head, attention_slice, 1, 32, 2>(p, form, limits, stream);
}

} // namespace infiniop::nvidia
