// flash_attention: dense attention with a key/value length per sequence.
#include "infiniop/schema/flash_attention.h"

#include "dense.h"

namespace infiniop::cpu {
namespace {

using schema::flash_attention::A;
using schema::flash_attention::T;

struct State {
    infiniDtype_t dtype, index;
    ptrdiff_t length_stride;
    DenseShape shape;
    AttentionPlan plan;

    static Status create(const Call &call, State &s, size_t &workspace) {
        const auto strides = [&](size_t t) {
            return DenseStrides{call.stride(t, 0), call.stride(t, 1), call.stride(t, 2), call.stride(t, 3)};
        };
        s.dtype = call.dtype(T::q);
        s.index = call.dtype(T::total_kv_len);
        s.length_stride = call.stride(T::total_kv_len, 0);
        s.shape = {strides(T::q),
                   strides(T::k),
                   strides(T::v),
                   strides(T::out),
                   call.dim(T::q, 0),
                   call.dim(T::q, 1),
                   call.dim(T::k, 1),
                   call.dim(T::q, 2),
                   call.dim(T::k, 2),
                   call.dim(T::q, 3),
                   call.integer(A::is_causal) != 0,
                   float(call.real(A::scale))};
        s.plan = s.shape.plan();
        workspace = s.plan.workspace();
        return INFINI_STATUS_SUCCESS;
    }

    int64_t length(const void *lengths, size_t n) const {
        const ptrdiff_t i = ptrdiff_t(n) * length_stride;
        return index == INFINI_DTYPE_I32 ? static_cast<const int32_t *>(lengths)[i]
                                         : static_cast<const int64_t *>(lengths)[i];
    }

    Status check(const void *lengths) const {
        for (size_t n = 0; n < shape.sequences; n++) {
            const int64_t keys = length(lengths, n);
            if (keys < 0 || keys > int64_t(shape.keys)) {
                return fail(INFINI_STATUS_BAD_PARAM, schema::flash_attention::op, "total_kv_len",
                            Text("lengths from 0 to %zu", shape.keys), Text("%lld at [%zu]", (long long)keys, n));
            }
        }
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        const void *lengths = run.data<const void>(T::total_kv_len);
        if (const Status status = check(lengths); status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        const auto length_of = [this, lengths](size_t n) { return length(lengths, n); };
        return visit_float(dtype, [&](auto tag) {
            using E = typename decltype(tag)::type;
            const DenseProblem<E, decltype(length_of)> problem{shape,
                                                               plan.tile_tokens,
                                                               run.data<const E>(T::q),
                                                               run.data<const E>(T::k),
                                                               run.data<const E>(T::v),
                                                               run.data<E>(T::out),
                                                               length_of};
            plan.run<E>(run.workspace<void>(), problem, 0.0f, false);
            return INFINI_STATUS_SUCCESS;
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::flash_attention::op, schema::flash_attention::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
