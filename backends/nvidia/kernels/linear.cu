// linear: y = x Wᵀ + bias, the weight plain or packed. What a packed weight holds is device data: the kernels read its
// header, and leave y as it was where they cannot use it. Few rows against a plain weight are our own kernel's, which
// streams the weight once; many are cuBLASLt's.
#include <algorithm>

#include "infiniop/schema/linear.h"

#include "../checked_host.h"
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

    // In checked mode: a packed weight that the kernels would not take.
    Status check_packed(const Run &run) const {
        if (!own.packed || !checks_now(run.stream())) {
            return INFINI_STATUS_SUCCESS;
        }
        const size_t bytes = size_t(own.p.packed_bytes);
        std::vector<char> header;
        const Status status =
            fetch(header, run.data<void>(T::weight), std::min(bytes, sizeof(PackedHeader)), run.stream());
        PackedReader reader;
        const int size = int(element_size(own.dtype));
        const bool good = reader.read(header.data(), own.p.packed_bytes, own.p.n, own.p.k, own.p.dtype, size);
        return status != INFINI_STATUS_SUCCESS || good
                   ? status
                   : fail(INFINI_STATUS_BAD_PARAM, op, "weight",
                          Text("a weight [%d, %d] that linear_pack made on this backend", own.p.n, own.p.k), "another");
    }

    Status calculate(const Run &run) const {
        if (own.packed && !aligned(run.data<void>(T::weight))) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "weight", "a packed weight aligned to 16 bytes", "another");
        }
        if (const Status status = check_packed(run); status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        void *y = run.data<void>(T::y), *x = run.data<void>(T::x), *weight = run.data<void>(T::weight);
        void *bias = run.data<void>(T::bias);
        if (cublas && cublas->takes(y, x, weight, bias)) {
            return cublas->run(y, x, weight, bias, 1.0f, 0.0f, run.workspace<void>(), run.stream());
        }
        ProductParams p = own.p;
        p.x = x;
        p.w = weight;
        p.bias = bias;
        p.y = y;
        p.alpha = 1.0f;
        return own.launch(p, run.stream());
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(op, schema::linear::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
