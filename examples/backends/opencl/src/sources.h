// The kernels' text, embedded by embed.cmake.
#pragma once

#include <string_view>

namespace opencl {
const char *source_of(std::string_view file);
}
