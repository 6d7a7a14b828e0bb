// The table that the plugin hands to the host.
#include "nvidia.h"

#include "collectives.h"
#include "runtime.h"

namespace infiniop::nvidia {
namespace {

// For `infiniop backends`: what it was built for, and why there can be no device. The driver is asked for its version
// only: its initialisation takes long, and must not happen in a process that uses the CPU and forks.
const char *version() {
    static const Text text = [] {
        constexpr int major = CUDART_VERSION / 1000, minor = CUDART_VERSION / 10 % 100;
        int driver = 0;
        if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
            cudaGetLastError();
            return Text("%s (CUDA %d.%d, %s; no device: there is no driver)", INFINIOP_VERSION, major, minor,
                        INFINIOP_CUDA_TARGETS);
        }
        return driver / 1000 < major
                   ? Text("%s (CUDA %d.%d, %s; no device: the driver is for CUDA %d.%d)", INFINIOP_VERSION, major,
                          minor, INFINIOP_CUDA_TARGETS, driver / 1000, driver / 10 % 100)
                   : Text("%s (CUDA %d.%d, %s)", INFINIOP_VERSION, major, minor, INFINIOP_CUDA_TARGETS);
    }();
    return text;
}

infiniopBackend make_backend() {
    static const std::vector<const infiniopKernel *> kernels = collect_kernels();
    infiniopBackend backend = {};
    backend.struct_size = sizeof(backend);
    backend.abi_major = INFINIOP_BACKEND_ABI_MAJOR;
    backend.abi_minor = INFINIOP_BACKEND_ABI_MINOR;
    backend.name = INFINIOP_NVIDIA_NAME;
    backend.device_name = INFINIOP_NVIDIA_NAME;
    backend.version = version();
    backend.priority = 100;
    backend.runtime = &runtime;
    backend.collectives = &collectives;
    backend.nkernels = kernels.size();
    backend.kernels = kernels.data();
    return backend;
}

} // namespace
} // namespace infiniop::nvidia

extern "C" __attribute__((visibility("default"))) const infiniopBackend *
infiniop_backend_init(const infiniopHost *host) {
    infiniop::backend::host = host;
    static const infiniopBackend backend = infiniop::nvidia::make_backend();
    return &backend;
}
