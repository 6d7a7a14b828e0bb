// The elementwise operators, swiglu and silu_and_mul.
#include "../kernel.h"

#include <infiniop/schema/add.h>
#include <infiniop/schema/gelu.h>
#include <infiniop/schema/mul.h>
#include <infiniop/schema/relu.h>
#include <infiniop/schema/sigmoid.h>
#include <infiniop/schema/silu.h>
#include <infiniop/schema/silu_and_mul.h>
#include <infiniop/schema/sub.h>
#include <infiniop/schema/swiglu.h>

namespace opencl {
namespace {

Plan plan(const std::string &type, const std::string &op, int inputs, ElementwiseParams params, const char *more = "") {
    const std::string options = "-DT=" + type + " -DOP=" + op + " -DINPUTS=" + std::to_string(inputs) + more;
    return Plan({Stage("elementwise.cl", "elementwise", options, params.nest.count, params)});
}

Plan unary(const Call &call, const char *op) { return plan(call.type(0), op, 1, {nest_of(call, {0, 1}), 0}); }

Plan binary(const Call &call, const char *op) {
    std::string type = call.type(0);
    if (type[0] == 'I') {
        type[0] = 'U'; // integers wrap around
    }
    return plan(type, op, 2, {nest_of(call, {0, 1, 2}), 0});
}

// The gate is the first half of the input's last axis.
Plan halves(const Call &call, const char *op) {
    const i64 second = call.dim_from_end(0, 1) * call.stride_from_end(1, 1);
    return plan(call.type(0), op, 1, {nest_of(call, {0, 1}), second}, " -DHALVES");
}

#define ELEMENTWISE(name, kind)                                                                                        \
    const Operator name(infiniop::schema::name::op, infiniop::schema::name::version,                                   \
                        [](const Call &call) { return kind(call, #name); })
ELEMENTWISE(add, binary);
ELEMENTWISE(sub, binary);
ELEMENTWISE(mul, binary);
ELEMENTWISE(swiglu, binary);
ELEMENTWISE(silu, unary);
ELEMENTWISE(gelu, unary);
ELEMENTWISE(sigmoid, unary);
ELEMENTWISE(relu, unary);
ELEMENTWISE(silu_and_mul, halves);

} // namespace
} // namespace opencl
