#include "strided.h"

#include "infiniop/schema/square.h"

namespace infiniop::cpu {
namespace {

using T = schema::square::T;

struct State {
    Nest<2> nest;
    infiniDtype_t dtype;

    static Status create(const Call &call, State &state, size_t &) {
        state.dtype = call.dtype(T::y);
        return Nest<2>::of(call, {T::y, T::x}, state.nest);
    }

    Status calculate(const Run &run) const {
        return visit_float64(dtype, [&](auto tag) {
            using E = typename decltype(tag)::type;
            E *y = run.data<E>(T::y);
            const E *x = run.data<E>(T::x);
            const ptrdiff_t sy = nest.inner_stride(0), sx = nest.inner_stride(1);
            parallel_pieces(nest, 2 * sizeof(E), [&](const ptrdiff_t *offset, size_t n) {
                for_vectors<lanes<E>>(n, [&](size_t i, auto part) {
                    const auto value = load_strided(x + offset[1] + ptrdiff_t(i) * sx, sx, part);
                    store_strided(y + offset[0] + ptrdiff_t(i) * sy, sy, value * value, part);
                });
            });
            return INFINI_STATUS_SUCCESS;
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::square::op, schema::square::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
