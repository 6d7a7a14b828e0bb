// NVIDIA's own libraries, found at run time: the backend links none of them.
#pragma once

#include <string>
#include <vector>

namespace infiniop::nvidia {

// A shared library: the file that `variable` names in the environment, else one of that name which the process has
// loaded already (torch's) or the system finds, else one in a folder of pip's packages beside this one
// ("nvidia/nccl/lib"). nullptr: `why` says what was tried.
void *open_library(const char *variable, const char *name, const std::vector<std::string> &folders,
                   std::string &why /* out */);

} // namespace infiniop::nvidia
