// The table that this instruction set's library hands to the host: kernels from the linker section, runtime, version.
#include <vector>

#include "cache.h"
#include "cpu.h"
#include "pool.h"
#include "runtime.h"

namespace infiniop::cpu {
namespace {

infiniopBackend make_backend() {
    static const std::vector<const infiniopKernel *> kernels = collect_kernels();
    static const Text version("%s (%s, %zu thread%s)", INFINIOP_VERSION, INFINIOP_CPU_ISA, thread_count(),
                              thread_count() == 1 ? "" : "s");
    cache_bytes(); // read now: who sets it wrongly is told at load
    infiniopBackend backend = {};
    backend.struct_size = sizeof(backend);
    backend.abi_major = INFINIOP_BACKEND_ABI_MAJOR;
    backend.abi_minor = INFINIOP_BACKEND_ABI_MINOR;
    backend.name = "cpu";
    backend.device_name = "cpu";
    backend.version = version;
    backend.runtime = &runtime;
    backend.nkernels = kernels.size();
    backend.kernels = kernels.data();
    return backend;
}
} // namespace
} // namespace infiniop::cpu

extern "C" __attribute__((visibility("default"))) const infiniopBackend *
infiniop_backend_init(const infiniopHost *host) {
    infiniop::backend::host = host;
    static const infiniopBackend backend = infiniop::cpu::make_backend();
    return &backend;
}
