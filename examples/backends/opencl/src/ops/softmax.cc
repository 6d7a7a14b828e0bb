// softmax, log_softmax and causal_softmax: a work-group per row.
#include "../kernel.h"

#include <infiniop/schema/causal_softmax.h>
#include <infiniop/schema/log_softmax.h>
#include <infiniop/schema/softmax.h>

namespace opencl {
namespace {

Plan along_axis(const Call &call, const char *kernel, i64 axis) {
    const size_t at = size_t(axis < 0 ? axis + i64(call.rank(0)) : axis);
    SoftmaxParams params = {};
    params.rows = nest_of(call, {0, 1}, {at});
    params.d = call.dim(0, at);
    params.step[0] = call.stride(0, at);
    params.step[1] = call.stride(1, at);
    const i64 groups = params.d ? params.rows.count : 0;
    return Plan({Stage("softmax.cl", kernel, "-DT=" + call.type(0), groups, params).grouped()});
}

Plan causal(const Call &call) {
    const size_t rank = call.rank(0);
    SoftmaxParams params = {};
    params.rows = nest_of(call, {0, 1}, {rank - 2, rank - 1});
    params.d = call.dim(0, rank - 1);
    params.queries = call.dim(0, rank - 2);
    for (size_t t = 0; t < 2; ++t) {
        params.step[t] = call.stride(t, rank - 1);
        params.query_step[t] = call.stride(t, rank - 2);
    }
    const i64 groups = params.d ? params.rows.count * params.queries : 0;
    return Plan({Stage("softmax.cl", "causal_softmax", "-DT=" + call.type(0), groups, params).grouped()});
}

namespace schema = infiniop::schema;
const Operator softmax(schema::softmax::op, schema::softmax::version, [](const Call &call) {
    return along_axis(call, "softmax", call.integer(schema::softmax::A::axis));
});
const Operator log_softmax(schema::log_softmax::op, schema::log_softmax::version, [](const Call &call) {
    return along_axis(call, "log_softmax", call.integer(schema::log_softmax::A::dim));
});
const Operator causal_softmax(schema::causal_softmax::op, schema::causal_softmax::version, causal);

} // namespace
} // namespace opencl
