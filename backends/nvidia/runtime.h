// The device "nvidia": CUDA's devices, memory, streams, events and graphs.
#pragma once

#include "infiniop/backend.h"

namespace infiniop::nvidia {
extern const infinirtRuntime runtime;
}
