// What paged_attention and paged_attention_prefill share.
#pragma once

#include "attention_plan.h"

namespace infiniop::nvidia {

inline Index index_kind(infiniDtype_t dtype) {
    return dtype == INFINI_DTYPE_I64 ? Index::i64 : dtype == INFINI_DTYPE_I32 ? Index::i32 : Index::u32;
}

// T and A are the indices of an operator's tensors and attributes.
template <class T, class A> struct PagedState {
    AttentionPlan plan;

    // q_at, out_at: filled in by the operator, which knows whose axis the first is.
    Status prepare(const Call &call, bool packed, size_t &workspace) {
        AttentionParams &p = plan.p;
        const auto cache = [&](size_t t) {
            return CacheStrides{call.stride(t, 0), call.stride(t, 1), call.stride(t, 2), call.stride(t, 3)};
        };
        const auto heads = [&](size_t t) {
            const ptrdiff_t first = call.stride(t, 0);
            return HeadStrides{packed ? 0 : first, packed ? first : 0, call.stride(t, 1), call.stride(t, 2)};
        };
        p.q_at = heads(T::q);
        p.out_at = heads(T::out);
        p.k_at = cache(T::k_cache);
        p.v_at = cache(T::v_cache);
        p.sequences = int(call.dim(T::seq_lens, 0));
        p.kv_heads = int(call.dim(T::k_cache, 1));
        p.group = int(call.dim(T::q, 1)) / p.kv_heads;
        p.d = int(call.last_dim(T::q));
        p.dv = int(call.last_dim(T::out));
        p.nblocks = int64_t(call.dim(T::k_cache, 0));
        p.block_size = int(call.dim(T::k_cache, 2));
        p.table_row = call.stride(T::block_tables, 0);
        p.length_stride = 1;
        p.table_kind = p.length_kind = index_kind(call.dtype(T::block_tables));
        p.scale = float(call.real(A::scale));
        p.epsilon = 1e-6f;
        p.causal = true;
        const int64_t keys = int64_t(call.dim(T::block_tables, 1)) * p.block_size;
        const Status status =
            plan.choose(call, call.dtype(T::q), packed, packed ? int64_t(call.dim(T::q, 0)) : 1, keys);
        workspace = plan.workspace;
        return status;
    }

    Status launch(const Run &run, const void *starts) const {
        AttentionParams p = plan.p;
        p.q = run.data<void>(T::q);
        p.k = run.data<void>(T::k_cache);
        p.v = run.data<void>(T::v_cache);
        p.tables = run.data<void>(T::block_tables);
        p.lengths = run.data<void>(T::seq_lens);
        p.slopes = run.data<float>(T::alibi_slopes);
        p.out = run.data<void>(T::out);
        p.starts = starts;
        p.partial = run.workspace<float>();
        return plan.launch(p, run.stream());
    }
};

} // namespace infiniop::nvidia
