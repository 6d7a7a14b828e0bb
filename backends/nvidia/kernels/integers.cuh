// Integers of any dtype, read on the device.
#pragma once

#include "../types.h"

#include "infinicore.h"

namespace infiniop::nvidia {

// The i-th integer; a U64 beyond the range of int64_t comes out negative, which no index may be.
__device__ __forceinline__ int64_t integer_at(const void *data, infiniDtype_t dtype, int64_t i) {
    switch (dtype) {
    case INFINI_DTYPE_I8:
        return static_cast<const int8_t *>(data)[i];
    case INFINI_DTYPE_I16:
        return static_cast<const int16_t *>(data)[i];
    case INFINI_DTYPE_I32:
        return static_cast<const int32_t *>(data)[i];
    case INFINI_DTYPE_U8:
        return static_cast<const uint8_t *>(data)[i];
    case INFINI_DTYPE_U16:
        return static_cast<const uint16_t *>(data)[i];
    case INFINI_DTYPE_U32:
        return static_cast<const uint32_t *>(data)[i];
    default: // I64, U64
        return static_cast<const int64_t *>(data)[i];
    }
}

} // namespace infiniop::nvidia
