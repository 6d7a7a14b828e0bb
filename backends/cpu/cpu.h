// What a kernel file of the CPU backend sees: ../kernel.h, and the element types.
#pragma once

#include "../kernel.h"

namespace infiniop::cpu {

using namespace backend;

// ---- element types --------------------------------------------------------------------------------------------

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

// Half types compute in f32.
template <class T> struct ComputeType {
    using type = T;
};
template <> struct ComputeType<f16> {
    using type = float;
};
template <> struct ComputeType<bf16> {
    using type = float;
};
template <class T> using compute_t = typename ComputeType<T>::type;

template <class T> struct Type {
    using type = T;
};

inline Status unsupported_dtype() {
    return fail(INFINI_STATUS_BAD_TENSOR_DTYPE, nullptr, nullptr, "a dtype of the operator's schema", "another");
}

// Call f(Type<T>{}) with the C++ type of a dtype; f returns Status. `auto tag`, then `typename decltype(tag)::type`.
template <class F> Status visit_float(infiniDtype_t dtype, F &&f) {
    switch (dtype) {
    case INFINI_DTYPE_F16:
        return f(Type<f16>{});
    case INFINI_DTYPE_BF16:
        return f(Type<bf16>{});
    case INFINI_DTYPE_F32:
        return f(Type<float>{});
    default:
        return unsupported_dtype();
    }
}

template <class F> Status visit_float64(infiniDtype_t dtype, F &&f) {
    return dtype == INFINI_DTYPE_F64 ? f(Type<double>{}) : visit_float(dtype, f);
}

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
