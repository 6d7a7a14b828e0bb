// Element types that C++ lacks, for host and device code of the built-in backends.
#pragma once

#include <cstdint>

namespace infiniop::backend {

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

} // namespace infiniop::backend
