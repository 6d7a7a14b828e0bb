// gemm, and linear with a plain or a packed weight.
#include "../kernel.h"

#include <infiniop/schema/gemm.h>
#include <infiniop/schema/linear.h>

namespace opencl {
namespace {

Stage stage(const Call &call, const char *kernel, const ProductParams &params) {
    const bool wide = params.a[2] == 1 && params.b[1] == 1;
    const i64 items = params.batch * params.m * params.n;
    return Stage("product.cl", kernel, "-DT=" + call.type(0) + (wide ? " -DWIDE" : ""), items, params);
}

// Batch, row and column strides; an operand with one matrix serves every batch.
void set_strides(const Call &call, size_t t, i64 (&strides)[3]) {
    strides[0] = call.dim_from_end(t, 3) == 1 ? 0 : call.stride_from_end(t, 3);
    strides[1] = call.stride_from_end(t, 2);
    strides[2] = call.stride_from_end(t, 1);
}

namespace products = infiniop::schema::gemm;

Plan plan_gemm(const Call &call) {
    using T = products::T;
    ProductParams params = {};
    params.batch = call.dim_from_end(T::c, 3);
    params.m = call.dim_from_end(T::c, 2);
    params.n = call.dim_from_end(T::c, 1);
    params.k = call.dim_from_end(T::a, 1);
    set_strides(call, T::c, params.c);
    set_strides(call, T::a, params.a);
    set_strides(call, T::b, params.b);
    return Plan({stage(call, "gemm", params)}, [](Prepared &prepared, const infiniopRun &run) {
        const cl_float2 factors = {{float(run.attrs[products::A::alpha].f), float(run.attrs[products::A::beta].f)}};
        prepared.launch(0, run, factors);
    });
}
const Operator gemm(products::op, products::version, plan_gemm);

namespace layer = infiniop::schema::linear;

// The header says at run what the buffer holds.
Plan plan_packed(const Call &call) {
    using T = layer::T;
    PackedParams params = {};
    params.m = call.dim(T::y, 0);
    params.n = call.dim(T::y, 1);
    params.k = call.dim(T::x, 1);
    params.y_row = call.stride(T::y, 0);
    params.x_row = call.stride(T::x, 0);
    params.room = call.dim(T::weight, 0);
    const std::string options = "-DT=" + call.type(T::y) + " -DCODE=" + std::to_string(call.dtype(T::y));
    return Plan({Stage("packed_product.cl", "linear_packed", options, params.m * params.n, params)});
}

Plan plan_linear(const Call &call) {
    using T = layer::T;
    if (call.rank(T::weight) == 1) {
        return plan_packed(call);
    }
    ProductParams params = {};
    params.batch = 1;
    params.m = call.dim(T::y, 0);
    params.n = call.dim(T::y, 1);
    params.k = call.dim(T::x, 1);
    set_strides(call, T::y, params.c);
    set_strides(call, T::x, params.a);
    set_strides(call, T::weight, params.b);
    std::swap(params.b[1], params.b[2]);
    return Plan({stage(call, "linear", params)});
}
const Operator linear(layer::op, layer::version, plan_linear);

} // namespace
} // namespace opencl
