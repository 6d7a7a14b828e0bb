// The attention operators: a work-group per query and head.
#include <algorithm>
#include <array>
#include <cmath>

#include "../kernel.h"
#include "caching.h"

#include <infiniop/schema/attention.h>
#include <infiniop/schema/flash_attention.h>
#include <infiniop/schema/paged_attention.h>
#include <infiniop/schema/paged_attention_prefill.h>

namespace opencl {
namespace {

namespace schema = infiniop::schema;

// Strides of sequence, head, token and element, by the axes that hold them; a negative axis is not there.
void set_strides(const Call &call, size_t t, const std::array<int, 4> &axes, i64 (&strides)[4]) {
    for (size_t i = 0; i < 4; ++i) {
        strides[i] = axes[i] < 0 ? 0 : call.stride(t, size_t(axes[i]));
    }
}

Stage stage(const Call &call, const char *kernel, const std::string &index, const AttentionParams &params, bool paged) {
    i64 room = 256; // few programs: one for the usual heads
    while (room < std::max(params.d, params.dv)) {
        room *= 2;
    }
    const size_t local = sizeof(float) * (2 * size_t(room) + 2 * call.device().work_group()) + sizeof(cl_int);
    if (local > call.device().local_memory()) {
        refuse(INFINI_STATUS_NOT_IMPLEMENTED, "q", "heads that fit into this device's local memory",
               std::to_string(std::max(params.d, params.dv)) + " elements");
    }
    const std::string options =
        "-DT=" + call.type(0) + " -DI=" + index + " -DHEAD=" + std::to_string(room) + (paged ? " -DPAGED" : "");
    const i64 groups = params.dv ? params.sequences * params.rows * params.heads : 0;
    return Stage("attention.cl", kernel, options, groups, params).grouped();
}

// paged_attention and paged_attention_prefill: out and q are [rows, heads, d], the caches [blocks, heads, places, d].
template <class T> AttentionParams paged(const Call &call, double scale) {
    AttentionParams params = {};
    params.heads = call.dim(T::q, 1);
    params.group = params.heads / std::max<i64>(call.dim(T::k_cache, 1), 1);
    params.d = call.dim(T::q, 2);
    params.dv = call.dim(T::out, 2);
    params.nseq = call.dim(T::block_tables, 0);
    params.blocks = call.dim(T::k_cache, 0);
    params.block_size = std::max<i64>(call.dim(T::k_cache, 2), 1); // 0 where there are no blocks
    params.table_width = call.dim(T::block_tables, 1);
    params.table_row = call.stride(T::block_tables, 0);
    params.table_step = call.stride(T::block_tables, 1);
    params.scale = float(scale);
    params.epsilon = 1e-6f;
    set_strides(call, T::k_cache, {0, 1, 2, 3}, params.k);
    set_strides(call, T::v_cache, {0, 1, 2, 3}, params.v);
    return params;
}

Plan plan_decode(const Call &call) {
    using T = schema::paged_attention::T;
    AttentionParams params = paged<T>(call, call.real(schema::paged_attention::A::scale));
    params.sequences = call.dim(T::q, 0);
    params.rows = 1;
    set_strides(call, T::out, {0, 1, -1, 2}, params.out);
    set_strides(call, T::q, {0, 1, -1, 2}, params.q);
    return Plan({stage(call, "paged_attention", call.type(T::seq_lens), params, true)});
}
const Operator decode(schema::paged_attention::op, schema::paged_attention::version, plan_decode);

Plan plan_prefill(const Call &call) {
    using T = schema::paged_attention_prefill::T;
    AttentionParams params = paged<T>(call, call.real(schema::paged_attention_prefill::A::scale));
    params.sequences = 1;
    params.rows = call.dim(T::q, 0);
    set_strides(call, T::out, {-1, 1, 0, 2}, params.out);
    set_strides(call, T::q, {-1, 1, 0, 2}, params.q);
    return Plan({stage(call, "paged_attention_prefill", call.type(T::seq_lens), params, true)});
}
const Operator prefill(schema::paged_attention_prefill::op, schema::paged_attention_prefill::version, plan_prefill);

Plan plan_flash(const Call &call) {
    using T = schema::flash_attention::T;
    AttentionParams params = {};
    params.sequences = call.dim(T::q, 0);
    params.heads = call.dim(T::q, 1);
    params.group = params.heads / std::max<i64>(call.dim(T::k, 1), 1);
    params.rows = call.dim(T::q, 2);
    params.d = params.dv = call.dim(T::q, 3);
    params.keys = call.dim(T::k, 2);
    params.length_step = call.stride(T::total_kv_len, 0);
    params.causal = call.integer(schema::flash_attention::A::is_causal);
    params.scale = float(call.real(schema::flash_attention::A::scale));
    set_strides(call, T::out, {0, 1, 2, 3}, params.out);
    set_strides(call, T::q, {0, 1, 2, 3}, params.q);
    set_strides(call, T::k, {0, 1, 2, 3}, params.k);
    set_strides(call, T::v, {0, 1, 2, 3}, params.v);
    return Plan({stage(call, "flash_attention", call.type(T::total_kv_len), params, false)});
}
const Operator flash(schema::flash_attention::op, schema::flash_attention::version, plan_flash);

// Appends to the caches, then attends.
Plan plan_static(const Call &call) {
    using T = schema::attention::T;
    const i64 past = call.integer(schema::attention::A::pos);
    CachingParams append = caching_params(call, {T::k_cache, T::v_cache, T::k, T::v});
    append.sequences = 1;
    append.tokens = call.dim(T::k, 1);
    append.block_size = past;

    AttentionParams params = {};
    params.sequences = 1;
    params.heads = call.dim(T::q, 0);
    params.group = params.heads / std::max<i64>(call.dim(T::k, 0), 1);
    params.rows = call.dim(T::q, 1);
    params.d = params.dv = call.dim(T::q, 2);
    params.past = past;
    params.scale = 1 / std::sqrt(float(params.d));
    set_strides(call, T::out, {-1, 1, 0, 2}, params.out);
    set_strides(call, T::q, {-1, 0, 1, 2}, params.q);
    set_strides(call, T::k_cache, {-1, 0, 1, 2}, params.k);
    set_strides(call, T::v_cache, {-1, 0, 1, 2}, params.v);
    return Plan({caching_stage("append", "-DI=I64 -DT=" + call.bits(T::k), append),
                 stage(call, "attention", "I64", params, false)});
}
const Operator attention(schema::attention::op, schema::attention::version, plan_static);

} // namespace
} // namespace opencl
