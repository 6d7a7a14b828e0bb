// Shadow mode: a descriptor whose every call is made on other backends too, and compared.
#pragma once

#include "infiniop/verify.h"
#include "objects.hpp"

namespace infini {

// When shadow mode is on: put it between the descriptor and its kernel. `call` is what the kernel was created with.
infiniStatus_t shadow(InfiniopDescriptor &desc, const infiniopCall &call);

void keep_first_calls(); // from now on: one of each operator
infiniopVerifyCounts verify_counts();
void set_judge(infiniopVerifyJudge_t judge);

} // namespace infini
