#include "../kernel.h"

#include <infiniop/schema/rope.h>

namespace opencl {
namespace {

namespace schema = infiniop::schema::rope;

// [*batch, tokens, heads, d], one batch axis or none.
Plan plan(const Call &call) {
    using T = schema::T;
    RopeParams params = {};
    params.batch = call.dim_from_end(T::y, 4);
    params.tokens = call.dim_from_end(T::y, 3);
    params.heads = call.dim_from_end(T::y, 2);
    params.half_d = call.dim_from_end(T::y, 1) / 2;
    params.positions = call.dim(T::sin_table, 0);
    for (size_t i = 0; i < 3; ++i) {
        params.y[i] = call.stride_from_end(T::y, 4 - i);
        params.x[i] = call.stride_from_end(T::x, 4 - i);
    }
    params.position[0] = call.stride_from_end(T::pos_ids, 2);
    params.position[1] = call.stride_from_end(T::pos_ids, 1);
    const bool neighbours = call.integer(schema::A::algo) == 0;
    const std::string options =
        "-DT=" + call.type(T::y) + " -DP=" + call.type(T::pos_ids) + (neighbours ? " -DNEIGHBOURS" : "");
    const i64 items = params.batch * params.tokens * params.heads * params.half_d;
    return Plan({Stage("rope.cl", "rope", options, items, params)});
}

const Operator rope(schema::op, schema::version, plan);

} // namespace
} // namespace opencl
