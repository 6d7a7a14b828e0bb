// linear_pack and linear_packed_size.
#include <algorithm>

#include "../kernel.h"

#include <infiniop/schema/linear_pack.h>
#include <infiniop/schema/linear_packed_size.h>

namespace opencl {
namespace {

namespace packing = infiniop::schema::linear_pack;
namespace sizing = infiniop::schema::linear_packed_size;
static_assert(size_t(packing::T::weight) == size_t(sizing::T::weight), "both take the same tensors");
static_assert(size_t(packing::A::group_size) == size_t(sizing::A::group_size), "and the same attributes");

PackedParams params_of(const Call &call) {
    using T = packing::T;
    PackedParams params = {};
    params.n = call.dim(T::weight, 0);
    params.k = call.dim(T::weight, 1);
    params.format = call.integer(packing::A::format);
    params.group_size = call.integer(packing::A::group_size);
    params.dtype = call.dtype(T::weight);
    params.weight_row = call.stride(T::weight, 0);
    const bool zeros = call.has(T::zeros);
    i64 row = params.k * i64(call.size(T::weight));
    if (params.format) {
        params.groups = params.group_size ? params.k / params.group_size : 1;
        row = (params.format == 2 ? (params.k + 1) / 2 : params.k) + params.groups * (zeros ? 6 : 4);
    }
    params.size = PACKED_HEADER + params.n * row;
    params.layout = !params.format ? PACKED_OWN : zeros ? PACKED_ZEROS : PACKED_SCALES;
    params.scales_row = call.has(T::scales) ? call.stride(T::scales, 0) : 0;
    params.zeros_row = zeros ? call.stride(T::zeros, 0) : 0;
    return params;
}

Stage stage(const Call &call, const char *kernel, i64 items, const PackedParams &params) {
    using T = packing::T;
    const auto type = [&](size_t t, const char *none) { return call.has(t) ? call.type(t) : none; };
    const std::string options = "-DW=" + call.type(T::weight) + " -DS=" + type(T::scales, "F32") +
                                " -DZ=" + type(T::zeros, "I8") + (params.format ? " -DQUANTISED" : "") +
                                (call.has(T::scales) ? " -DINTEGERS" : "");
    return Stage("packed.cl", kernel, options, items, params);
}

Plan plan_size(const Call &call) { return Plan({stage(call, "linear_packed_size", 1, params_of(call))}); }
const Operator linear_packed_size(sizing::op, sizing::version, plan_size);

Plan plan_pack(const Call &call) {
    const PackedParams params = params_of(call);
    const i64 room = call.dim(packing::T::packed, 0), size = params.size;
    return Plan({stage(call, "linear_pack", std::max<i64>(params.n, 1), params)},
                [room, size](Prepared &prepared, const infiniopRun &run) {
                    if (room < size) {
                        refuse(INFINI_STATUS_BAD_PARAM, "packed",
                               std::to_string(size) + " bytes, as linear_packed_size says", std::to_string(room));
                    }
                    prepared.launch(0, run);
                });
}
const Operator linear_pack(packing::op, packing::version, plan_pack);

} // namespace
} // namespace opencl
