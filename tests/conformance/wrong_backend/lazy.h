// A device whose streams do nothing before somebody waits for them: what ignores its stream comes too early, always.
#pragma once

#include <functional>

#include "infiniop/backend.h"

namespace wrong {

void queue(infinirtStream_t stream, std::function<void()> task); // NULL: the default stream

extern const infinirtRuntime runtime;

} // namespace wrong
