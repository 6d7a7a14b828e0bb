// What host and device code share: element types and the sizes that everything is cut by.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "../element.h"

namespace infiniop::nvidia {

constexpr int warp_size = 32;
constexpr int access_bytes = 16; // of the widest load and store

using backend::bf16;
using backend::compute_t;
using backend::f16;

} // namespace infiniop::nvidia
