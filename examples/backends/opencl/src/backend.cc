// What the host asks for: the table of this backend.
#include "kernel.h"

extern "C" __attribute__((visibility("default"))) const infiniopBackend *
infiniop_backend_init(const infiniopHost *given) {
    using namespace opencl;
    host = given;
    const Status status = guarded("opencl", [] {
        if (devices().empty()) {
            refuse(INFINI_STATUS_DEVICE_NOT_FOUND, "", "an OpenCL device with coarse-grained shared virtual memory",
                   "none (with Debian's pocl-opencl-icd the processor is one)");
        }
    });
    if (status != INFINI_STATUS_SUCCESS) {
        return nullptr;
    }
    static const infiniopBackend backend = [] {
        infiniopBackend table = {};
        table.struct_size = sizeof table;
        table.abi_major = INFINIOP_BACKEND_ABI_MAJOR;
        table.abi_minor = INFINIOP_BACKEND_ABI_MINOR;
        table.name = "opencl";
        table.device_name = "opencl";
        table.version = BACKEND_VERSION;
        table.runtime = &runtime;
        table.nkernels = kernels().size();
        table.kernels = kernels().data();
        return table;
    }();
    return &backend;
}
