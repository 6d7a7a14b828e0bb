// infiniccl on NCCL, which is found at run time.
#pragma once

#include "infiniop/backend.h"

namespace infiniop::nvidia {
extern const infinicclCollectives collectives;
}
