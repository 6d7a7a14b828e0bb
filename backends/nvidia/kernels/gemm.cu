// gemm: c = alpha a b + beta c, by cuBLASLt where it is there and takes the strides, else by our own kernels.
#include "infiniop/schema/gemm.h"

#include "product.h"

namespace infiniop::nvidia {
namespace {

using schema::gemm::A;
using schema::gemm::T;

Matrix matrix(const Call &call, size_t tensor) {
    const size_t r = call.rank(tensor);
    const bool batched = r == 3 && call.dim(tensor, 0) != 1;
    return {int64_t(call.dim(tensor, r - 2)), int64_t(call.dim(tensor, r - 1)), call.stride(tensor, r - 2),
            call.stride(tensor, r - 1), batched ? call.stride(tensor, 0) : 0};
}

struct State {
    OwnProduct own;
    std::unique_ptr<Cublas> cublas;

    static Status create(const Call &call, State &s, size_t &workspace) {
        MatrixProduct product{call.dtype(T::c), matrix(call, T::c), matrix(call, T::a), matrix(call, T::b)};
        product.batch = call.rank(T::c) == 3 ? int64_t(call.dim(T::c, 0)) : 1;
        s.own.describe(product);
        s.cublas = Cublas::create(product, call.raw().device_id);
        workspace = s.cublas ? s.cublas->workspace() : 0;
        return OwnProduct::check(call.op(), product);
    }

    Status calculate(const Run &run) const {
        const float alpha = float(run.real(A::alpha)), beta = float(run.real(A::beta));
        void *c = run.data<void>(T::c), *a = run.data<void>(T::a), *b = run.data<void>(T::b);
        if (cublas && cublas->takes(c, a, b, nullptr)) {
            return cublas->run(c, a, b, nullptr, alpha, beta, run.workspace<void>(), run.stream());
        }
        ProductParams p = own.p;
        p.x = a;
        p.w = b;
        p.y = c;
        p.alpha = alpha;
        p.beta = beta;
        return own.launch(p, run.stream());
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::gemm::op, schema::gemm::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
