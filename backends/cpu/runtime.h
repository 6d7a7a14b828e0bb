// The device "cpu": host memory, streams whose work is done when a call returns, events that are timestamps.
#pragma once

#include "infiniop/backend.h"

namespace infiniop::cpu {
extern const infinirtRuntime runtime;
}
