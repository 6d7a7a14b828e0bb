// What host and device code share: element types and the sizes that everything is cut by.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace infiniop::nvidia {

constexpr int warp_size = 32;
constexpr int access_bytes = 16; // of the widest load and store

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

} // namespace infiniop::nvidia
