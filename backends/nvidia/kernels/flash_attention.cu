// flash_attention: dense attention with a key/value length per sequence.
#include "infiniop/schema/flash_attention.h"

#include "paged.h"

namespace infiniop::nvidia {
namespace {

using schema::flash_attention::A;
using schema::flash_attention::T;

struct State {
    AttentionPlan plan;
    infiniDtype_t index;

    static Status create(const Call &call, State &s, size_t &workspace) {
        AttentionParams &p = s.plan.p;
        const auto heads = [&](size_t t) {
            return HeadStrides{call.stride(t, 0), call.stride(t, 2), call.stride(t, 1), call.stride(t, 3)};
        };
        const auto cache = [&](size_t t) {
            return CacheStrides{call.stride(t, 0), call.stride(t, 1), call.stride(t, 2), call.stride(t, 3)};
        };
        p.q_at = heads(T::q);
        p.out_at = heads(T::out);
        p.k_at = cache(T::k);
        p.v_at = cache(T::v);
        p.sequences = int(call.dim(T::q, 0));
        p.kv_heads = int(call.dim(T::k, 1));
        p.group = int(call.dim(T::q, 1)) / p.kv_heads;
        p.d = p.dv = int(call.dim(T::q, 3));
        p.block_size = most_dense_keys;
        p.length_stride = call.stride(T::total_kv_len, 0);
        s.index = call.dtype(T::total_kv_len);
        p.length_kind = index_kind(s.index);
        p.scale = float(call.real(A::scale));
        p.causal = call.integer(A::is_causal) != 0;
        p.zeros = true;
        const Status status =
            s.plan.choose(call, call.dtype(T::q), false, int64_t(call.dim(T::q, 2)), int64_t(call.dim(T::k, 2)));
        workspace = s.plan.workspace;
        return status;
    }

    Status calculate(const Run &run) const {
        const Values lengths{
            schema::flash_attention::op, "total_kv_len", run.data<void>(T::total_kv_len), index, plan.p.sequences, 1,
            plan.p.length_stride};
        if (checked()) {
            const Status status = check_values(lengths, int64_t(0), int64_t(plan.p.keys), run.stream());
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        AttentionParams p = plan.p;
        p.q = run.data<void>(T::q);
        p.k = run.data<void>(T::k);
        p.v = run.data<void>(T::v);
        p.lengths = run.data<void>(T::total_kv_len);
        p.out = run.data<void>(T::out);
        p.partial = run.workspace<float>();
        return plan.launch(p, run.stream());
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::flash_attention::op, schema::flash_attention::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
