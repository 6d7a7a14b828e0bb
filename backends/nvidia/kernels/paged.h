// What paged_attention and paged_attention_prefill share.
#pragma once

#include "../checked_host.h"
#include "attention_plan.h"

namespace infiniop::nvidia {

inline Index index_kind(infiniDtype_t dtype) {
    return dtype == INFINI_DTYPE_I64 ? Index::i64 : dtype == INFINI_DTYPE_I32 ? Index::i32 : Index::u32;
}

// T and A are the indices of an operator's tensors and attributes.
template <class T, class A> struct PagedState {
    AttentionPlan plan;
    infiniDtype_t index;

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
        const int64_t blocks = int64_t(call.dim(T::k_cache, 0)), block_size = int64_t(call.dim(T::k_cache, 2));
        const int64_t keys = int64_t(call.dim(T::block_tables, 1)) * block_size;
        if (blocks > INT32_MAX || block_size > most_dense_keys) {
            return fail(INFINI_STATUS_BAD_TENSOR_SHAPE, call.op(), "k_cache",
                        "fewer than 2^31 blocks of up to 2^30 rows", "more");
        }
        p.nblocks = int(blocks);
        p.block_size = int(block_size);
        p.table_row = call.stride(T::block_tables, 0);
        index = call.dtype(T::block_tables);
        p.length_stride = 1;
        p.table_kind = p.length_kind = index_kind(index);
        p.scale = float(call.real(A::scale));
        p.epsilon = 1e-6f;
        p.causal = true;
        const Status status =
            plan.choose(call, call.dtype(T::q), packed, packed ? int64_t(call.dim(T::q, 0)) : 1, keys);
        workspace = plan.workspace;
        return status;
    }

    // In checked mode: what the CPU refuses.
    Status check(const char *op, const Run &run, const void *starts) const {
        if (!checks_now(run.stream())) {
            return INFINI_STATUS_SUCCESS;
        }
        const AttentionParams &p = plan.p;
        const int64_t n = p.sequences, size = int64_t(element_size(index));
        Integers lengths, first, table;
        Status status = lengths.read(run.data<void>(T::seq_lens), n, index, run.stream());
        if (status == INFINI_STATUS_SUCCESS && starts) {
            status = first.read(starts, n + 1, index, run.stream());
        }
        for (int64_t s = 0; status == INFINI_STATUS_SUCCESS && starts && s <= n; s++) {
            if (first[s] < (s ? first[s - 1] : 0) || first[s] > p.tokens) {
                status = fail(INFINI_STATUS_BAD_PARAM, op, "cum_seq_lens_q",
                              Text("increasing values from 0 to %d", p.tokens),
                              Text("%lld at [%lld]", (long long)first[s], (long long)s));
            }
        }
        for (int64_t s = 0; status == INFINI_STATUS_SUCCESS && s < n; s++) {
            if (starts && first[s] == first[s + 1]) {
                continue;
            }
            if (lengths[s] > p.keys) {
                return fail(INFINI_STATUS_BAD_PARAM, op, "seq_lens", Text("lengths of at most %d", p.keys),
                            Text("%lld at [%lld]", (long long)lengths[s], (long long)s));
            }
            const int64_t used = lengths[s] > 0 ? ceil_div(lengths[s], p.block_size) : 0;
            const char *row = run.data<char>(T::block_tables) + s * p.table_row * size;
            status = used ? table.read(row, used, index, run.stream()) : status;
            for (int64_t i = 0; status == INFINI_STATUS_SUCCESS && i < used; i++) {
                if (table[i] < 0 || table[i] >= p.nblocks) {
                    status = fail(INFINI_STATUS_BAD_PARAM, op, "block_tables", Text("blocks below %d", p.nblocks),
                                  Text("%lld at [%lld, %lld]", (long long)table[i], (long long)s, (long long)i));
                }
            }
        }
        return status;
    }

    Status launch(const char *op, const Run &run, const void *starts) const {
        if (const Status status = check(op, run, starts); status != INFINI_STATUS_SUCCESS) {
            return status;
        }
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
