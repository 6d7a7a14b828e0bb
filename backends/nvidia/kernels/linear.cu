// linear: y = x Wᵀ + bias, the weight plain or packed. What a packed weight holds is device data: the kernels read its
// header, and leave y as it was where they cannot use it. Few rows against a plain weight are our own kernel's, which
// streams the weight once; many are cuBLASLt's.
#include "infiniop/schema/linear.h"

#include "product.h"

namespace infiniop::nvidia {
namespace {

using schema::linear::op;
using schema::linear::T;

struct State {
    OwnProduct own;
    std::unique_ptr<Cublas> cublas;

    static Status create(const Call &call, State &s, size_t &workspace) {
        const int64_t m = int64_t(call.dim(T::y, 0)), n = int64_t(call.dim(T::y, 1)), k = int64_t(call.dim(T::x, 1));
        MatrixProduct product{call.dtype(T::x), {m, n, call.stride(T::y, 0), 1}, {m, k, call.stride(T::x, 0), 1}, {}};
        product.bias = call.has(T::bias);
        s.own.packed = call.rank(T::weight) == 1;
        // w has the rows of the weight: b is its transpose.
        product.b = {k, n, 1, s.own.packed ? ptrdiff_t(k) : call.stride(T::weight, 0)};
        s.own.p.packed_bytes = s.own.packed ? int64_t(call.dim(T::weight, 0)) : 0;
        s.own.keep(product);
        if (!s.own.packed && !s.own.streams_few()) {
            s.cublas = Cublas::create(product, call.raw().device_id);
        }
        workspace = s.cublas ? s.cublas->workspace() : 0;
        return OwnProduct::check(call.op(), product);
    }

    Status calculate(const Run &run) const {
        if (own.packed && !aligned(run.data<void>(T::weight))) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "weight", "a packed weight aligned to 16 bytes", "another");
        }
        if (cublas) {
            return cublas->run(run.data<void>(T::y), run.data<void>(T::x), run.data<void>(T::weight),
                               run.data<void>(T::bias), 1.0f, 0.0f, run.workspace<void>(), run.stream());
        }
        ProductParams p = own.p;
        p.x = run.data<void>(T::x);
        p.w = run.data<void>(T::weight);
        p.bias = run.data<void>(T::bias);
        p.y = run.data<void>(T::y);
        p.alpha = 1.0f;
        return own.launch(p, run.stream());
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(op, schema::linear::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
