#include "strided.h"

#include "infiniop/schema/embedding.h"

namespace infiniop::cpu {
namespace {

using T = schema::embedding::T;

// output[…, :] = weight[input[…], :]; a row whose index is out of range is left as it was.
struct State {
    Nest<2> nest; // output and input, without the row
    size_t rows, d;
    ptrdiff_t row_stride, from_stride, to_stride; // weight's rows, weight and output along the row
    infiniDtype_t dtype, index_dtype;

    static Status create(const Call &call, State &state, size_t &) {
        const size_t last = call.rank(T::output) - 1;
        state.rows = call.dim(T::weight, 0);
        state.d = call.dim(T::weight, 1);
        state.row_stride = call.stride(T::weight, 0);
        state.from_stride = call.stride(T::weight, 1);
        state.to_stride = call.stride(T::output, last);
        state.dtype = call.dtype(T::weight);
        state.index_dtype = call.dtype(T::input);
        return Nest<2>::of(call, {T::output, T::input}, state.nest, last);
    }

    Status calculate(const Run &run) const {
        return visit_integer(index_dtype, [&](auto tag) {
            using I = typename decltype(tag)::type;
            if (element_size(dtype) == 2) {
                calculate_as<uint16_t, I>(run);
            } else {
                calculate_as<uint32_t, I>(run);
            }
            return INFINI_STATUS_SUCCESS;
        });
    }

    template <class X, class I> void calculate_as(const Run &run) const {
        X *output = run.data<X>(T::output);
        const X *weight = run.data<X>(T::weight);
        const I *input = run.data<I>(T::input);
        if (d == 0 || rows == 0) {
            return;
        }
        parallel_positions(nest, 2 * d * sizeof(X), [&](const ptrdiff_t *offset) {
            const I index = input[offset[1]];
            if (index >= 0 && uint64_t(index) < rows) {
                copy_strided(output + offset[0], to_stride, weight + ptrdiff_t(index) * row_stride, from_stride, d);
            }
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::embedding::op, schema::embedding::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
