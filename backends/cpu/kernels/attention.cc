// attention: append to a static KV cache, then attend causally.
#include <cmath>

#include "infiniop/schema/attention.h"

#include "dense.h"

namespace infiniop::cpu {
namespace {

using schema::attention::A;
using schema::attention::T;

struct State {
    infiniDtype_t dtype;
    DenseStrides k, v; // of the new rows
    size_t pos;
    DenseShape shape;
    AttentionPlan plan;

    static Status create(const Call &call, State &s, size_t &workspace) {
        const auto strides = [&](size_t t) {
            return DenseStrides{0, call.stride(t, 0), call.stride(t, 1), call.stride(t, 2)};
        };
        s.dtype = call.dtype(T::q);
        s.k = strides(T::k);
        s.v = strides(T::v);
        s.pos = size_t(call.integer(A::pos));
        const size_t tokens = call.dim(T::q, 1), d = call.dim(T::q, 2);
        const DenseStrides out{0, call.stride(T::out, 1), call.stride(T::out, 0), call.stride(T::out, 2)};
        s.shape = {strides(T::q),
                   strides(T::k_cache),
                   strides(T::v_cache),
                   out,
                   1,
                   call.dim(T::q, 0),
                   call.dim(T::k, 0),
                   tokens,
                   s.pos + tokens,
                   d,
                   true,
                   1.0f / std::sqrt(float(d))};
        s.plan = s.shape.plan();
        workspace = s.plan.workspace();
        return INFINI_STATUS_SUCCESS;
    }

    // Copies the new rows of a head into its cache.
    template <class E>
    void append(E *cache, const DenseStrides &to, const E *rows, const DenseStrides &from, size_t head) const {
        cache += ptrdiff_t(head) * to.head + ptrdiff_t(pos) * to.token;
        rows += ptrdiff_t(head) * from.head;
        for (size_t t = 0; t < shape.tokens; t++) {
            std::memcpy(cache + ptrdiff_t(t) * to.token, rows + ptrdiff_t(t) * from.token, shape.head_size * sizeof(E));
        }
    }

    template <class E> void calculate_as(const Run &run) const {
        E *k_cache = run.data<E>(T::k_cache), *v_cache = run.data<E>(T::v_cache);
        const E *new_k = run.data<const E>(T::k), *new_v = run.data<const E>(T::v);
        const size_t bytes = 2 * shape.tokens * shape.head_size * sizeof(E);
        parallel_for(bytes ? shape.kv_heads : 0, grain_for(bytes), [&](size_t begin, size_t end) {
            for (size_t head = begin; head < end; head++) {
                append(k_cache, shape.k, new_k, k, head);
                append(v_cache, shape.v, new_v, v, head);
            }
        });
        const auto length = [this](size_t) { return int64_t(shape.keys); };
        const DenseProblem<E, decltype(length)> problem{
            shape, plan.tile_tokens, run.data<const E>(T::q), k_cache, v_cache, run.data<E>(T::out), length};
        plan.run<E>(run.workspace<void>(), problem, 0.0f, false);
    }

    Status calculate(const Run &run) const {
        return visit_float(dtype, [&](auto tag) {
            calculate_as<typename decltype(tag)::type>(run);
            return INFINI_STATUS_SUCCESS;
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::attention::op, schema::attention::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
