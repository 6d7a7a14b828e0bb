#include "pool.h"
#include "strided.h"
#include "vmath.h"

#include "infiniop/schema/silu_and_mul.h"

namespace infiniop::cpu {
namespace {

using T = schema::silu_and_mul::T;

// output[…, j] = silu(input[…, j]) · input[…, d + j]
struct State {
    Nest<2> nest; // the leading axes
    size_t d;
    ptrdiff_t output_stride, input_stride; // along the last axis
    infiniDtype_t dtype;

    static Status create(const Call &call, State &state, size_t &) {
        const size_t last = call.rank(T::output) - 1;
        state.d = call.dim(T::output, last);
        state.output_stride = call.stride(T::output, last);
        state.input_stride = call.stride(T::input, last);
        state.dtype = call.dtype(T::output);
        return Nest<2>::of(call, {T::output, T::input}, state.nest, last);
    }

    Status calculate(const Run &run) const {
        return visit_float(dtype, [&](auto tag) {
            using X = typename decltype(tag)::type;
            X *output = run.data<X>(T::output);
            const X *input = run.data<X>(T::input);
            const bool past = output != input && exceeds_cache(nest.count * d * 3 * sizeof(X));
            const size_t piece = past ? streamed_piece : usual_piece;
            const size_t pieces = (d + piece - 1) / piece;
            const bool few = nest.count * d * 3 * sizeof(X) < least_parallel;
            const size_t grain = few ? nest.count * pieces : grain_for((d < piece ? d : piece) * 3 * sizeof(X));
            parallel_for(nest.count * pieces, grain, [&](size_t begin, size_t end) {
                for (size_t i = begin; i < end; i++) {
                    const Odometer<2> position(nest, nest.rank, i / pieces);
                    const size_t first = i % pieces * piece;
                    row(output + position.offset[0], input + position.offset[1], first,
                        d - first < piece ? d : first + piece, past);
                }
            });
            return INFINI_STATUS_SUCCESS;
        });
    }

    template <class X> void row(X *output, const X *input, size_t begin, size_t end, bool past) const {
        if (output_stride == 1 && input_stride == 1) {
            write_lines(output + begin, end - begin, past, [&](size_t i, size_t count, auto stride) {
                part_of_row(output, input, begin + i, begin + i + count, stride, Unit{});
            });
        } else {
            part_of_row(output, input, begin, end, output_stride, input_stride);
        }
    }

    template <class X, class SO, class SI>
    void part_of_row(X *output, const X *input, size_t begin, size_t end, SO so, SI si) const {
        const X *gate = input + ptrdiff_t(begin) * ptrdiff_t(si), *up = gate + ptrdiff_t(d) * ptrdiff_t(si);
        X *to = output + ptrdiff_t(begin) * ptrdiff_t(so);
        for_vectors<lanes<X>>(end - begin, [&](size_t i, auto part) {
            const auto g = load_strided(gate + ptrdiff_t(i) * ptrdiff_t(si), si, part);
            const auto u = load_strided(up + ptrdiff_t(i) * ptrdiff_t(si), si, part);
            store_strided(to + ptrdiff_t(i) * ptrdiff_t(so), so, silu(g) * u, part);
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::silu_and_mul::op, schema::silu_and_mul::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
