// Which attention kernel serves a call, and with what grid: known at create, from shapes and the device's limits alone,
// because lengths are device data and a captured launch must serve them all.
#pragma once

#include "../nvidia.h"
#include "attention.cuh"

namespace infiniop::nvidia {

// How the tensor cores' kernels work: attend_rows for many queries, attend_keys for few.
enum class AttentionForm { rows, keys };

struct AttentionPlan {
    AttentionParams p = {};
    infiniDtype_t dtype;
    Limits limits;
    bool packed; // queries of several sequences, one after the other: there will be p.starts
    bool half;   // tensor cores can take these types, sizes and strides
    size_t workspace = 0;

    // Completes p, whose sizes, strides and flags are set; `keys`: the most that a sequence can have.
    Status choose(const Call &call, infiniDtype_t dtype, bool packed, int64_t tokens, int64_t keys);
    // `run` is p with the pointers of a run.
    Status launch(AttentionParams run, infinirtStream_t stream) const;

private:
    AttentionForm form() const;
};

// Kernels of one element type, f16 or bf16; every stride but the last is a multiple of 8, and the pointers are aligned.
template <class T>
Status attend_half(const AttentionParams &p, AttentionForm form, const Limits &limits, infinirtStream_t stream);

// What `half` means for head sizes: d and dv are multiples of 8 that a shape of attend_half takes.
constexpr int most_half_head = 576, attention_slice = 256;

constexpr int most_dense_keys = 1 << 30; // the block size of a cache without blocks

constexpr int attention_tile = 16; // rows of attend_keys and attend_plain

// Blocks along x of a grid that goes through tiles of `size` rows.
inline unsigned row_tile_blocks(const AttentionParams &p, int size) {
    return p.starts ? unsigned(int64_t(p.tokens) * p.group / size + p.sequences)
                    : unsigned(int64_t(p.sequences) * ceil_div(int64_t(p.tokens) * p.group, size));
}

} // namespace infiniop::nvidia
