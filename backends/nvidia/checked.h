// Checked mode (INFINIOP_CHECKED=1): values that kernels take as indices are verified on the device before the kernel
// runs, and the first offender is an error. Without it, kernels skip what an illegal value concerns.
#pragma once

#include "nvidia.h"

namespace infiniop::nvidia {

bool checked();

// A tensor of at most two axes whose values are checked.
struct Values {
    const char *op, *argument;
    const void *data;
    infiniDtype_t dtype; // integers, or F32
    int64_t columns;     // extent of the last axis
    int64_t rows = 1;
    int64_t column_stride = 1, row_stride = 0;
};

// SUCCESS when all values lie in low … high, else BAD_PARAM with the first that does not. It waits for the stream; in a
// capture, which cannot wait, nothing is checked.
Status check_values(const Values &values, int64_t low, int64_t high, infinirtStream_t stream);
Status check_values(const Values &values, double low, double high, const char *expected, infinirtStream_t stream);

} // namespace infiniop::nvidia
