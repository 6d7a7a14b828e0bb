// The table that this instruction set's library hands to the host: kernels from the linker section, runtime, version.
#include <cstdarg>
#include <cstdio>
#include <vector>

#include "cpu.h"
#include "pool.h"
#include "runtime.h"

// The linker's names for the ends of the section that kernel files put their tables in.
extern "C" const infiniopKernel *const __start_infiniop_kernels[];
extern "C" const infiniopKernel *const __stop_infiniop_kernels[];

namespace infiniop::cpu {

const infiniopHost *host = nullptr;

Text::Text(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(s, sizeof(s), format, arguments);
    va_end(arguments);
}

Status fail(Status status, const char *op, const char *argument, const char *expected, const char *got) {
    const infiniopError error = {sizeof(error), status, op, argument, expected, got, nullptr};
    host->set_error(&error);
    return status;
}

size_t element_size(infiniDtype_t dtype) {
    switch (dtype) {
    case INFINI_DTYPE_BYTE:
    case INFINI_DTYPE_BOOL:
    case INFINI_DTYPE_I8:
    case INFINI_DTYPE_U8:
    case INFINI_DTYPE_F8:
        return 1;
    case INFINI_DTYPE_I16:
    case INFINI_DTYPE_U16:
    case INFINI_DTYPE_F16:
    case INFINI_DTYPE_BF16:
    case INFINI_DTYPE_C16:
        return 2;
    case INFINI_DTYPE_I32:
    case INFINI_DTYPE_U32:
    case INFINI_DTYPE_F32:
    case INFINI_DTYPE_C32:
        return 4;
    case INFINI_DTYPE_I64:
    case INFINI_DTYPE_U64:
    case INFINI_DTYPE_F64:
    case INFINI_DTYPE_C64:
        return 8;
    case INFINI_DTYPE_C128:
        return 16;
    default:
        return 0;
    }
}

namespace {
// The compiler may align an array in the section, which leaves gaps of zeros.
std::vector<const infiniopKernel *> collect_kernels() {
    std::vector<const infiniopKernel *> kernels;
    for (auto at = __start_infiniop_kernels; at != __stop_infiniop_kernels; at++) {
        if (*at) {
            kernels.push_back(*at);
        }
    }
    return kernels;
}

infiniopBackend make_backend() {
    static const std::vector<const infiniopKernel *> kernels = collect_kernels();
    static const Text version("%s (%s, %zu thread%s)", INFINIOP_VERSION, INFINIOP_CPU_ISA, thread_count(),
                              thread_count() == 1 ? "" : "s");
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
    infiniop::cpu::host = host;
    static const infiniopBackend backend = infiniop::cpu::make_backend();
    return &backend;
}
