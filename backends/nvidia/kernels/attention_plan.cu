#include "attention_plan.h"

#include <algorithm>

#include "attention_plain.cuh"

namespace infiniop::nvidia {
namespace {

bool multiple_of_8(const HeadStrides &at) {
    return at.last == 1 && at.sequence % 8 == 0 && at.token % 8 == 0 && at.head % 8 == 0;
}

bool multiple_of_8(const CacheStrides &at) {
    return at.last == 1 && at.block % 8 == 0 && at.head % 8 == 0 && at.row % 8 == 0;
}

template <class T> Status launch_plain(const AttentionParams &p, infinirtStream_t stream) {
    const unsigned tiles = row_tile_blocks(p, attention_tile), heads = p.kv_heads, slices = p.slices;
    const dim3 grid = p.starts ? dim3(tiles, heads, slices) : dim3(tiles * heads * slices * p.splits);
    return nvidia::launch(attend_plain<T>, grid, 32 * PlainShape::warps, PlainShape::shared, stream, p);
}

template <class T> Status launch_combine(const AttentionParams &p, infinirtStream_t stream) {
    const unsigned rows = unsigned(int64_t(p.sequences) * p.kv_heads * p.tokens * p.group);
    return nvidia::launch(attend_combine<T>, rows, 32 * combine_warps, 0, stream, p);
}

} // namespace

Status AttentionPlan::choose(const Call &call, infiniDtype_t type, bool starts, int64_t tokens, int64_t keys) {
    constexpr int64_t most = most_dense_keys;
    limits = nvidia::limits(call);
    dtype = type;
    packed = starts;
    if (keys > most || tokens * p.group > most) {
        return fail(INFINI_STATUS_BAD_TENSOR_SHAPE, call.op(), nullptr, "at most 2^30 keys and rows", "more");
    }
    p.tokens = int(tokens);
    p.keys = int(keys);
    p.by_block = Divisor(p.block_size);
    p.by_group = Divisor(p.group);
    p.slices = int(ceil_div(p.dv, attention_slice));
    p.row_tiles = int(ceil_div(tokens * p.group, attention_tile));
    const bool sizes = p.d % 8 == 0 && p.dv % 8 == 0 && p.d <= most_half_head && p.dv <= 2 * attention_slice;
    half =
        dtype != INFINI_DTYPE_F32 && sizes && multiple_of_8(p.q_at) && multiple_of_8(p.k_at) && multiple_of_8(p.v_at);
    p.splits = 1;
    if (!packed && (!half || form() == AttentionForm::keys)) {
        // Up to four times what the device runs at once, so that sequences of different lengths even out.
        const int64_t blocks = int64_t(p.sequences) * p.kv_heads * p.row_tiles * p.slices;
        const int64_t wanted = blocks ? 8 * int64_t(limits.multiprocessors) / blocks : 1;
        p.splits = int(std::max<int64_t>(1, std::min(wanted, ceil_div(keys, 256))));
    }
    if (p.splits > 1) {
        const size_t rows = size_t(p.sequences) * p.kv_heads * p.tokens * p.group;
        workspace = rows * p.splits * (p.dv + 2) * sizeof(float);
    }
    return INFINI_STATUS_SUCCESS;
}

AttentionForm AttentionPlan::form() const {
    const bool few = !packed && (p.tokens == 1 || int64_t(p.tokens) * p.group <= attention_tile);
    return few ? AttentionForm::keys : AttentionForm::rows;
}

Status AttentionPlan::launch(AttentionParams run, infinirtStream_t stream) const {
    if (p.sequences == 0 || p.tokens == 0 || p.group == 0 || p.dv == 0) {
        return INFINI_STATUS_SUCCESS;
    }
    const bool tensor_cores = half && aligned(run.q) && aligned(run.k) && aligned(run.v);
    run.natural = !tensor_cores;
    const Status status = visit_float(dtype, [&](auto tag) {
        using T = typename decltype(tag)::type;
        if constexpr (sizeof(T) == 2) {
            if (tensor_cores) {
                return attend_half<T>(run, form(), limits, stream);
            }
        }
        return launch_plain<T>(run, stream);
    });
    if (status != INFINI_STATUS_SUCCESS || run.splits == 1) {
        return status;
    }
    return visit_float(dtype, [&](auto tag) { return launch_combine<typename decltype(tag)::type>(run, stream); });
}

} // namespace infiniop::nvidia
