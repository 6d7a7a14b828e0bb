// What linear_pack and linear_packed_size share: the description of a packed weight.
#pragma once

#include "../nvidia.h"
#include "packed.cuh"

namespace infiniop::nvidia {

constexpr size_t most_extent = (size_t(1) << 31) - 128; // tiles are counted in 32 bits

// T and A are the indices of an operator's tensors and attributes.
template <class T, class A> Status describe(const Call &call, PackedWeight &w /* out */) {
    if (call.dim(T::weight, 0) >= most_extent || call.dim(T::weight, 1) >= most_extent) {
        return fail(INFINI_STATUS_BAD_TENSOR_SHAPE, call.op(), "weight", "extents below 2^31 - 128", "more");
    }
    const auto scale = [&] {
        const infiniDtype_t dtype = call.has(T::scales) ? call.dtype(T::scales) : INFINI_DTYPE_BF16;
        return dtype == INFINI_DTYPE_F16 ? Scale::f16 : dtype == INFINI_DTYPE_BF16 ? Scale::bf16 : Scale::f32;
    };
    w = {};
    w.n = int(call.dim(T::weight, 0));
    w.k = int(call.dim(T::weight, 1));
    const int64_t group = call.integer(A::group_size);
    w.group = group > 0 && group < w.k ? int(group) : w.k;
    w.format = uint32_t(call.integer(A::format));
    if (w.format != 0) {
        w.scale = scale();
        w.is_signed = call.dtype(T::weight) != INFINI_DTYPE_U8;
        w.has_zeros = call.has(T::zeros);
    }
    return INFINI_STATUS_SUCCESS;
}

} // namespace infiniop::nvidia
