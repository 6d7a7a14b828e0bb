// Operators that copy: rearrange, embedding, select_last_token_hidden and the caches' two.
#include <algorithm>

#include "../kernel.h"
#include "caching.h"

#include <infiniop/schema/embedding.h>
#include <infiniop/schema/kv_caching.h>
#include <infiniop/schema/paged_caching.h>
#include <infiniop/schema/rearrange.h>
#include <infiniop/schema/select_last_token_hidden.h>

namespace opencl {
namespace {

namespace schema = infiniop::schema;

std::string options(const Call &call, size_t element, size_t index) {
    return "-DT=" + call.bits(element) + " -DI=" + call.type(index);
}

const Operator rearrange(schema::rearrange::op, schema::rearrange::version, [](const Call &call) {
    const Nest nest = nest_of(call, {0, 1});
    return Plan({Stage("copy.cl", "rearrange", "-DI=I32 -DT=" + call.bits(0), nest.count, nest)});
});

Plan plan_embedding(const Call &call) {
    using T = schema::embedding::T;
    CopyParams params = {};
    params.rows = nest_of(call, {T::output, T::input}, {call.rank(T::output) - 1});
    params.d = call.dim(T::weight, 1);
    params.limit = call.dim(T::weight, 0);
    params.source_row = call.stride(T::weight, 0);
    params.step[0] = call.stride_from_end(T::output, 1);
    params.step[1] = call.stride(T::weight, 1);
    return Plan(
        {Stage("copy.cl", "embedding", options(call, T::output, T::input), params.rows.count * params.d, params)});
}
const Operator embedding(schema::embedding::op, schema::embedding::version, plan_embedding);

Plan plan_select(const Call &call) {
    using T = schema::select_last_token_hidden::T;
    CopyParams params = {};
    params.rows.count = call.dim(T::output, 1);
    params.d = call.dim(T::output, 2);
    params.limit = call.dim(T::hidden_states, 0) * call.dim(T::hidden_states, 1);
    return Plan({Stage("copy.cl", "select_last_token_hidden", options(call, T::output, T::input_offsets),
                       params.rows.count * params.d, params)});
}
const Operator select_last_token_hidden(schema::select_last_token_hidden::op, schema::select_last_token_hidden::version,
                                        plan_select);

Plan plan_paged(const Call &call) {
    using T = schema::paged_caching::T;
    CachingParams params = caching_params(call, {T::k_cache, T::v_cache, T::k, T::v});
    params.sequences = 1;
    params.tokens = call.dim(T::k, 0);
    params.block_size = call.dim(T::k_cache, 2);
    params.places = call.dim(T::k_cache, 0) * params.block_size;
    for (const size_t i : {2, 3}) { // [tokens, heads, d]
        const size_t t = i == 2 ? T::k : T::v;
        params.sequence[i] = 0;
        params.row[i] = call.stride(t, 0);
        params.head[i] = call.stride(t, 1);
    }
    return Plan({caching_stage("paged_caching", options(call, T::k, T::slot_mapping), params)});
}
const Operator paged_caching(schema::paged_caching::op, schema::paged_caching::version, plan_paged);

Plan plan_static(const Call &call) {
    using T = schema::kv_caching::T;
    CachingParams params = caching_params(call, {T::k_cache, T::v_cache, T::k, T::v});
    params.sequences = call.dim(T::k, 0);
    params.tokens = call.dim(T::k, 2);
    params.places = call.dim(T::k_cache, 2);
    return Plan({caching_stage("kv_caching", options(call, T::k, T::past_kv_lengths), params)});
}
const Operator kv_caching(schema::kv_caching::op, schema::kv_caching::version, plan_static);

} // namespace

CachingParams caching_params(const Call &call, const std::array<size_t, 4> &tensors) {
    CachingParams params = {};
    params.heads = call.dim_from_end(tensors[0], 3);
    params.d = call.dim_from_end(tensors[0], 1);
    params.dv = call.dim_from_end(tensors[1], 1);
    for (size_t i = 0; i < 4; ++i) {
        params.sequence[i] = call.stride_from_end(tensors[i], 4);
        params.head[i] = call.stride_from_end(tensors[i], 3);
        params.row[i] = call.stride_from_end(tensors[i], 2);
        params.element[i] = call.stride_from_end(tensors[i], 1);
    }
    return params;
}

Stage caching_stage(const char *kernel, const std::string &options, const CachingParams &params) {
    const i64 items = params.sequences * params.tokens * params.heads * std::max(params.d, params.dv);
    return Stage("copy.cl", kernel, options, items, params);
}

} // namespace opencl
