// What a kernel file of the CPU backend sees: ../kernel.h, and integers.
#pragma once

#include "../kernel.h"

namespace infiniop::cpu {

using namespace backend;

template <class F> Status visit_integer(infiniDtype_t dtype, F &&f) {
    switch (dtype) {
    case INFINI_DTYPE_I8:
        return f(Type<int8_t>{});
    case INFINI_DTYPE_I16:
        return f(Type<int16_t>{});
    case INFINI_DTYPE_I32:
        return f(Type<int32_t>{});
    case INFINI_DTYPE_I64:
        return f(Type<int64_t>{});
    case INFINI_DTYPE_U8:
        return f(Type<uint8_t>{});
    case INFINI_DTYPE_U16:
        return f(Type<uint16_t>{});
    case INFINI_DTYPE_U32:
        return f(Type<uint32_t>{});
    case INFINI_DTYPE_U64:
        return f(Type<uint64_t>{});
    default:
        return unsupported_dtype();
    }
}

} // namespace infiniop::cpu
