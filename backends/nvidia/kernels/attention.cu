// attention: append to a static KV cache, then attend causally.
#include <cmath>

#include "infiniop/schema/attention.h"

#include "paged.h"

namespace infiniop::nvidia {
namespace {

using schema::attention::A;
using schema::attention::T;

// New rows [heads][tokens][d] and where they go in a cache.
struct Append {
    struct Side {
        const void *from;
        void *to;
        int64_t from_head, from_token, to_head, to_token;
    } keys, values;
    int64_t tokens, d, total; // total: elements of one side
};

// Grid: x: elements, y: keys or values.
template <class E> __global__ void append_kernel(const Append a) {
    const Append::Side side = blockIdx.y == 0 ? a.keys : a.values;
    for (int64_t i = global_thread(); i < a.total; i += grid_threads()) {
        const int64_t column = i % a.d, token = i / a.d % a.tokens, head = i / a.d / a.tokens;
        static_cast<E *>(side.to)[head * side.to_head + token * side.to_token + column] =
            static_cast<const E *>(side.from)[head * side.from_head + token * side.from_token + column];
    }
}

struct State {
    AttentionPlan plan;
    Append append = {};
    size_t first; // row of the caches

    static Status create(const Call &call, State &s, size_t &workspace) {
        AttentionParams &p = s.plan.p;
        const auto cache = [&](size_t t) {
            return CacheStrides{0, call.stride(t, 0), call.stride(t, 1), call.stride(t, 2)};
        };
        const int64_t tokens = int64_t(call.dim(T::q, 1));
        s.first = size_t(call.integer(A::pos));
        p.q_at = {0, call.stride(T::q, 1), call.stride(T::q, 0), call.stride(T::q, 2)};
        p.out_at = {0, call.stride(T::out, 0), call.stride(T::out, 1), call.stride(T::out, 2)};
        p.k_at = cache(T::k_cache);
        p.v_at = cache(T::v_cache);
        p.sequences = 1;
        p.kv_heads = int(call.dim(T::k, 0));
        p.group = int(call.dim(T::q, 0)) / p.kv_heads;
        p.d = p.dv = int(call.dim(T::q, 2));
        p.block_size = most_dense_keys;
        p.scale = 1.0f / std::sqrt(float(p.d));
        p.causal = true;
        const auto side = [&](size_t source, const CacheStrides &to) {
            return Append::Side{nullptr, nullptr, call.stride(source, 0), call.stride(source, 1), to.head, to.row};
        };
        s.append.keys = side(T::k, p.k_at);
        s.append.values = side(T::v, p.v_at);
        s.append.tokens = tokens;
        s.append.d = p.d;
        s.append.total = tokens * p.d * p.kv_heads;
        const Status status = s.plan.choose(call, call.dtype(T::q), false, tokens, int64_t(s.first) + tokens);
        workspace = s.plan.workspace;
        return status;
    }

    Status calculate(const Run &run) const {
        AttentionParams p = plan.p;
        p.q = run.data<void>(T::q);
        p.k = run.data<void>(T::k_cache);
        p.v = run.data<void>(T::v_cache);
        p.out = run.data<void>(T::out);
        p.partial = run.workspace<float>();
        const Status status = visit_size(element_size(plan.dtype), [&](auto tag) {
            using E = typename decltype(tag)::type;
            Append a = append;
            a.keys.from = run.data<void>(T::k);
            a.values.from = run.data<void>(T::v);
            a.keys.to = run.data<E>(T::k_cache) + ptrdiff_t(first) * p.k_at.row;
            a.values.to = run.data<E>(T::v_cache) + ptrdiff_t(first) * p.v_at.row;
            const Plan grid = plan_items(plan.limits, a.total);
            return nvidia::launch(append_kernel<E>, dim3(grid.blocks, 2), grid.threads, 0, run.stream(), a);
        });
        return status == INFINI_STATUS_SUCCESS ? plan.launch(p, run.stream()) : status;
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::attention::op, schema::attention::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
