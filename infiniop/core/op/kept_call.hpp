// A call that differed, on disk: `infiniop replay` makes it again.
#pragma once

#include <string>

#include "objects.hpp"

namespace infini {

struct KeptMemory {
    const char *bytes;
    size_t size;
    size_t address; // where it was; a replay has it at the same place of a cache line
};

struct KeptTensor {
    size_t memory; // by index
    size_t offset; // of element [0, …, 0], in bytes
};

struct KeptCall {
    const InfiniopDescriptor &desc;
    const infiniopValue *attrs;
    std::string backend, against, difference;
    std::vector<KeptMemory> memories;
    std::vector<KeptTensor> tensors; // schema order
};

// Into a new folder below `parent`, whose path it gives; "" when that fails.
std::string keep_call(const KeptCall &call, const std::string &parent);

} // namespace infini
