// The table that the plugin hands to the host.
#include "nvidia.h"

#include "collectives.h"
#include "runtime.h"

namespace infiniop::nvidia {
namespace {

// For `infiniop backends`: what it was built for, and why there is no device.
const char *version() {
    static const Text text = [] {
        int count = 0;
        const cudaError_t error = cudaGetDeviceCount(&count);
        const char *why = error != cudaSuccess ? cudaGetErrorString(error) : count == 0 ? "none found" : nullptr;
        cudaGetLastError();
        return why ? Text("%s (CUDA %d.%d, %s; no device: %s)", INFINIOP_VERSION, CUDART_VERSION / 1000,
                          CUDART_VERSION / 10 % 100, INFINIOP_CUDA_TARGETS, why)
                   : Text("%s (CUDA %d.%d, %s)", INFINIOP_VERSION, CUDART_VERSION / 1000, CUDART_VERSION / 10 % 100,
                          INFINIOP_CUDA_TARGETS);
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
