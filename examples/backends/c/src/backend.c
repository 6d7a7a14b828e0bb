/* plain_c: a backend in plain C, one static table. It shows the shape of a backend; it is right, and slow. */
#include "backend.h"

const infiniopHost *host;

infiniStatus_t fail(infiniStatus_t status, const char *argument, const char *expected, const char *got) {
    const infiniopError error = {sizeof error, status, NULL, argument, expected, got, NULL};
    host->set_error(&error);
    return status;
}

void *new_state(size_t size) {
    void *state = host->alloc(size, 16);
    if (!state) {
        fail(INFINI_STATUS_INTERNAL_ERROR, NULL, "memory for a descriptor", "none");
    }
    return state;
}

void destroy(void *state) { host->free(state); }

static const infiniopKernel *const kernels[] = {
    &elementwise_kernels[0], &elementwise_kernels[1], &elementwise_kernels[2], &elementwise_kernels[3],
    &elementwise_kernels[4], &elementwise_kernels[5], &embedding_kernel,       &paged_caching_kernel,
    &rearrange_kernel,       &rms_norm_kernel,
};

static const infiniopBackend backend = {
    .struct_size = sizeof backend,
    .abi_major = INFINIOP_BACKEND_ABI_MAJOR,
    .abi_minor = INFINIOP_BACKEND_ABI_MINOR,
    .name = "plain_c",
    .device_name = "cpu",
    .version = "0.1.0",
    .priority = 0, /* infiniop's own CPU backend has 100: whoever wants this one names it */
    .nkernels = sizeof kernels / sizeof *kernels,
    .kernels = kernels,
};

__attribute__((visibility("default"))) const infiniopBackend *infiniop_backend_init(const infiniopHost *given) {
    host = given;
    return &backend;
}
