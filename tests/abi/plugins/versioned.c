/* relu on a device of its own, compiled against headers that the tests have changed: shorter, longer, of another
 * version. MORE: the headers are longer than the host's; SHORT: without destroy and ctx. */
#include <infiniop/backend.h>

#include <stdlib.h>
#include <string.h>

#ifndef MORE
#define MORE 0
#endif
#ifndef SHORT
#define SHORT 0
#endif

static const infiniopHost *host;

/* What the host appended would be used, and what it does not have must be seen to be absent. */
static infiniStatus_t absent(size_t theirs, size_t ours, const char *what) {
    const infiniopError error = {.struct_size = sizeof error,
                                 .status = INFINI_STATUS_INTERNAL_ERROR,
                                 .argument = what,
                                 .expected = "another size"};
    if (MORE ? theirs < ours : theirs >= ours) {
        return INFINI_STATUS_SUCCESS;
    }
    return host->set_error(&error), INFINI_STATUS_INTERNAL_ERROR;
}

static infiniStatus_t create(void *ctx, const infiniopCall *call, void **state, size_t *workspace) {
#if SHORT
    static size_t only; /* nobody would free another */
    size_t *n = &only;
#else
    size_t *n = (size_t *)host->alloc(sizeof *n, 8);
#endif
    const infiniStatus_t status = absent(call->struct_size, sizeof *call, "call");
    (void)ctx, (void)workspace;
    if (status != INFINI_STATUS_SUCCESS || !n) {
        return status;
    }
    *n = 1;
    for (size_t i = 0; i < call->tensors[0]->ndim; ++i) {
        *n *= call->tensors[0]->shape[i];
    }
    *state = n;
    return absent(call->tensors[0]->struct_size, sizeof(infiniopTensorView), "view");
}

static infiniStatus_t calculate(void *state, const infiniopRun *run) {
    float *y = (float *)run->data[0];
    const float *x = (const float *)run->data[1];
    for (size_t i = 0; i < *(size_t *)state; ++i) {
        y[i] = x[i] > 0 ? x[i] : 0;
    }
    return absent(run->struct_size, sizeof *run, "run");
}

#if !SHORT
static void destroy(void *state) { host->free(state); }
#endif

static infiniopKernel kernel;
static infiniopBackend backend;
static const infiniopKernel *const kernels[] = {&kernel};

__attribute__((visibility("default"))) const infiniopBackend *infiniop_backend_init(const infiniopHost *given) {
    host = given;
    memset(&kernel, 0x55, sizeof kernel); /* rubbish in whatever this host does not know */
    memset(&backend, 0x55, sizeof backend);
    kernel.struct_size = sizeof kernel;
    kernel.op = "relu";
    kernel.schema_version = 1;
    kernel.supports = NULL;
    kernel.create = create;
    kernel.calculate = calculate;
#if !SHORT
    kernel.destroy = destroy;
    kernel.ctx = NULL;
#endif
    backend.struct_size = sizeof backend;
    backend.abi_major = INFINIOP_BACKEND_ABI_MAJOR;
    backend.abi_minor = INFINIOP_BACKEND_ABI_MINOR;
    backend.name = "versioned";
    backend.device_name = "cpu";
    backend.version = "1";
    backend.priority = 900;
    backend.flags = MORE ? 0xfffe : 0; /* flags of the future mean nothing to this host */
    backend.runtime = NULL;
    backend.collectives = NULL;
    backend.nkernels = 1;
    backend.kernels = kernels;
    return absent(host->struct_size, sizeof *host, "host") == INFINI_STATUS_SUCCESS ? &backend : NULL;
}
