// What the generated constraints and argument packing are written in.
#pragma once

#include <cstdint>
#include <type_traits>

#include "schema.hpp"

namespace infini {

// Arithmetic of constraints: integers saturate instead of overflowing, so that absurd extents and attributes compare as
// what they are; with a real operand it is double's.
template <typename A, typename B> auto add(A a, B b) {
    if constexpr (std::is_integral_v<A> && std::is_integral_v<B>) {
        int64_t sum;
        return __builtin_add_overflow(a, b, &sum) ? (a > 0 ? INT64_MAX : INT64_MIN) : sum;
    } else {
        return static_cast<double>(a) + static_cast<double>(b);
    }
}
template <typename A, typename B> auto sub(A a, B b) {
    if constexpr (std::is_integral_v<A> && std::is_integral_v<B>) {
        int64_t difference;
        return __builtin_sub_overflow(a, b, &difference) ? (a >= 0 ? INT64_MAX : INT64_MIN) : difference;
    } else {
        return static_cast<double>(a) - static_cast<double>(b);
    }
}
template <typename A, typename B> auto mul(A a, B b) {
    if constexpr (std::is_integral_v<A> && std::is_integral_v<B>) {
        int64_t product;
        return __builtin_mul_overflow(a, b, &product) ? ((a < 0) == (b < 0) ? INT64_MAX : INT64_MIN) : product;
    } else {
        return static_cast<double>(a) * static_cast<double>(b);
    }
}
inline int64_t floor_div(int64_t a, int64_t b) { return b == 0 ? 0 : a / b - ((a % b != 0) && ((a < 0) != (b < 0))); }
inline int64_t floor_mod(int64_t a, int64_t b) { return b == 0 ? 0 : a - floor_div(a, b) * b; }

inline int64_t tensor_rank(const infiniopTensorView *t) { return t ? static_cast<int64_t>(t->ndim) : 0; }

// Extent and stride of an axis, counted from the end when negative; 0 where there is none.
inline int64_t tensor_dim(const infiniopTensorView *t, int64_t i) {
    i += i < 0 ? tensor_rank(t) : 0;
    return i >= 0 && i < tensor_rank(t) ? static_cast<int64_t>(t->shape[i]) : 0;
}
inline int64_t tensor_stride(const infiniopTensorView *t, int64_t i) {
    i += i < 0 ? tensor_rank(t) : 0;
    return i >= 0 && i < tensor_rank(t) ? t->strides[i] : 0;
}

// An enum may hold any int: it is read as one.
template <typename T> infiniopValue integer(const T &value) {
    infiniopValue v;
    if constexpr (std::is_enum_v<T>) {
        int number;
        __builtin_memcpy(&number, &value, sizeof number);
        v.i = number;
    } else {
        v.i = static_cast<int64_t>(value);
    }
    return v;
}
inline infiniopValue real(double value) {
    infiniopValue v;
    v.f = value;
    return v;
}
inline infiniopValue array(const void *value) {
    infiniopValue v;
    v.p = value;
    return v;
}
inline infiniopValue none() { return integer(0); }

} // namespace infini
