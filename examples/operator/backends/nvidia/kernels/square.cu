#include "../device.cuh"
#include "../layout.h"
#include "../nvidia.h"

#include "infiniop/schema/square.h"

namespace infiniop::nvidia {
namespace {

using T = schema::square::T;

template <class E> __global__ void square_kernel(Nest<2> nest, E *y, const E *x) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < nest.count; i += step) {
        int64_t offset[2];
        nest.locate(i, nest.rank, offset);
        const auto value = widen(x[offset[1]]);
        y[offset[0]] = narrow<E>(value * value);
    }
}

struct State {
    Nest<2> nest;
    infiniDtype_t dtype;
    Plan plan;

    static Status create(const Call &call, State &state, size_t &) {
        Limits limits;
        const Status status = limits_of(call.raw().device_id, limits);
        if (status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        state.dtype = call.dtype(T::y);
        const Status laid_out = nest_of<2>(call, {T::y, T::x}, state.nest);
        state.plan = plan_items(limits, state.nest.count);
        return laid_out;
    }

    Status calculate(const Run &run) const {
        return visit_float64(dtype, [&](auto tag) {
            using E = typename decltype(tag)::type;
            return launch(square_kernel<E>, dim3(unsigned(plan.blocks)), dim3(unsigned(plan.threads)), 0, run.stream(),
                          nest, run.data<E>(T::y), run.data<E>(T::x));
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::square::op, schema::square::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
