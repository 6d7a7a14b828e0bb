// What the caching operators and `attention` share: keys and values [.., heads, rows, d] into a cache.
#pragma once

#include <array>

#include "../kernel.h"

namespace opencl {

// Strides and extents of k cache, v cache, k and v, all of the form [sequences or blocks, heads, rows, d].
CachingParams caching_params(const Call &call, const std::array<size_t, 4> &tensors);
Stage caching_stage(const char *kernel, const std::string &options, const CachingParams &params);

} // namespace opencl
