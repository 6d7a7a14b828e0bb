#include <cmath>

#include "reduce.h"
#include "strided.h"

#include "infiniop/schema/layer_norm.h"

namespace infiniop::cpu {
namespace {

using T = schema::layer_norm::T;

struct State {
    enum : size_t { output, standardization, deviation, input, count };

    Nest<count> nest; // the leading axes
    size_t d;
    ptrdiff_t stride[3], weight_stride, bias_stride; // along the last axis: output, standardization, input
    double epsilon;
    infiniDtype_t dtype;
    bool unit; // all of those are 1

    static Status create(const Call &call, State &state, size_t &) {
        const size_t last = call.rank(T::input) - 1;
        state.d = call.dim(T::input, last);
        state.stride[0] = call.stride(T::output, last);
        state.stride[1] = call.stride(T::input_standardization, last);
        state.stride[2] = call.stride(T::input, last);
        state.weight_stride = call.stride(T::weight, 0);
        state.bias_stride = call.has(T::bias) ? call.stride(T::bias, 0) : 1;
        state.epsilon = call.real(schema::layer_norm::A::eps);
        state.dtype = call.dtype(T::output);
        state.unit = state.d == 1 || (state.stride[0] == 1 && state.stride[1] == 1 && state.stride[2] == 1 &&
                                      state.weight_stride == 1 && state.bias_stride == 1);
        for (size_t axis = 0; axis < last; axis++) {
            if (state.nest.rank == max_rank) {
                return fail(INFINI_STATUS_NOT_IMPLEMENTED, call.op(), "input", "at most 64 axes longer than 1", "more");
            }
            state.nest.add_axis(call.dim(T::input, axis),
                                {call.stride(T::output, axis), call.stride(T::input_standardization, axis),
                                 call.stride(T::input_std_deviation, axis), call.stride(T::input, axis)});
        }
        state.nest.finish();
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        return visit_float(dtype, [&](auto tag) {
            using X = typename decltype(tag)::type;
            if (unit) {
                calculate_as<X>(run, Unit{}, Unit{}, Unit{}, Unit{}, Unit{});
            } else {
                calculate_as<X>(run, stride[0], stride[1], stride[2], weight_stride, bias_stride);
            }
            return INFINI_STATUS_SUCCESS;
        });
    }

    // SO … SB: strides of output, standardization, input, weight, bias.
    template <class X, class SO, class SS, class SI, class SW, class SB>
    void calculate_as(const Run &run, SO so, SS ss, SI si, SW sw, SB sb) const {
        using V = vector_t<X>;
        X *y = run.data<X>(T::output), *z = run.data<X>(T::input_standardization);
        X *sigma = run.data<X>(T::input_std_deviation);
        const X *x = run.data<X>(T::input), *w = run.data<X>(T::weight), *bias = run.data<X>(T::bias);
        const auto at = [](auto *p, size_t i, ptrdiff_t s) { return p + ptrdiff_t(i) * s; };
        parallel_positions(nest, 8 * d * sizeof(X), [&](const ptrdiff_t *offset) {
            X *to = y + offset[output], *standard = z + offset[standardization];
            const X *from = x + offset[input];
            const auto value = [&](size_t i, auto part) { return load_strided(at(from, i, si), si, part); };
            const V mean = splat<V>(compute_t<X>(sum_over<X>(d, value) / double(d)));
            const double squares = sum_over<X>(d, [&](size_t i, auto part) {
                const V v = keep(V(value(i, part) - mean), part, V{});
                return v * v;
            });
            const double root = std::sqrt(squares / double(d) + epsilon);
            const V inverse = splat<V>(compute_t<X>(1.0 / root));
            sigma[offset[deviation]] = put<X>(compute_t<X>(root));
            for_vectors<lanes<X>>(d, [&](size_t i, auto part) {
                const V v = (value(i, part) - mean) * inverse;
                store_strided(at(standard, i, ss), ss, v, part);
                V result = v * load_strided(at(w, i, sw), sw, part);
                if (bias) {
                    result += load_strided(at(bias, i, sb), sb, part);
                }
                store_strided(at(to, i, so), so, result, part);
            });
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::layer_norm::op, schema::layer_norm::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
