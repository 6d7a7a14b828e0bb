// layer_norm: a block per row; mean, then variance from the differences to it, then the three outputs.
#include "../device.cuh"
#include "../layout.h"

#include "infiniop/schema/layer_norm.h"

namespace infiniop::nvidia {
namespace {

using T = schema::layer_norm::T;

struct Parameters {
    Nest<4> rows; // output, standardization, deviation, input
    void *output, *standardization, *deviation;
    const void *input, *weight, *bias; // bias: nullptr counts as zeros
    int64_t width;
    int64_t output_step, standardization_step, input_step, weight_step, bias_step;
    float epsilon;
};

template <class X> __global__ void __launch_bounds__(1024) layer_norm_kernel(Parameters p) {
    int64_t offset[4];
    p.rows.locate(int64_t(blockIdx.x), p.rows.rank, offset);
    X *output = static_cast<X *>(p.output) + offset[0];
    X *standardization = static_cast<X *>(p.standardization) + offset[1];
    const X *input = static_cast<const X *>(p.input) + offset[3];
    const X *weight = static_cast<const X *>(p.weight), *bias = static_cast<const X *>(p.bias);
    float sum = 0;
    for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
        sum += widen(input[i * p.input_step]);
    }
    const float mean = block_reduce(sum, Add{}, 0.0f) / float(p.width);
    float squares = 0;
    for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
        const float difference = widen(input[i * p.input_step]) - mean;
        squares += difference * difference;
    }
    const float deviation = sqrtf(block_reduce(squares, Add{}, 0.0f) / float(p.width) + p.epsilon);
    for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
        const float standard = (widen(input[i * p.input_step]) - mean) / deviation;
        const float shift = bias ? widen(bias[i * p.bias_step]) : 0.0f;
        output[i * p.output_step] = narrow<X>(standard * widen(weight[i * p.weight_step]) + shift);
        standardization[i * p.standardization_step] = narrow<X>(standard);
    }
    if (threadIdx.x == 0) {
        static_cast<X *>(p.deviation)[offset[2]] = narrow<X>(deviation);
    }
}

struct State {
    Parameters p;
    infiniDtype_t dtype;

    static Status create(const Call &call, State &state, size_t &) {
        Parameters &p = state.p;
        const size_t last = call.rank(T::output) - 1;
        state.dtype = call.dtype(T::output);
        p.width = int64_t(call.dim(T::output, last));
        p.output_step = call.stride(T::output, last);
        p.standardization_step = call.stride(T::input_standardization, last);
        p.input_step = call.stride(T::input, last);
        p.weight_step = call.stride(T::weight, 0);
        p.bias_step = call.has(T::bias) ? call.stride(T::bias, 0) : 0;
        p.epsilon = float(call.real(schema::layer_norm::A::eps));
        return nest_of<4>(call, {T::output, T::input_standardization, T::input_std_deviation, T::input}, p.rows, 0,
                          last, false);
    }

    Status calculate(const Run &run) const {
        if (p.rows.count == 0 || p.width == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        Parameters q = p;
        q.output = run.data<void>(T::output);
        q.standardization = run.data<void>(T::input_standardization);
        q.deviation = run.data<void>(T::input_std_deviation);
        q.input = run.data<void>(T::input);
        q.weight = run.data<void>(T::weight);
        q.bias = run.data<void>(T::bias);
        const dim3 block(unsigned(plan_row_threads(p.width, 4, 1024)));
        return visit_float(dtype, [&](auto tag) {
            return launch(layer_norm_kernel<typename decltype(tag)::type>, dim3(unsigned(p.rows.count)), block, 0,
                          run.stream(), q);
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::layer_norm::op, schema::layer_norm::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
