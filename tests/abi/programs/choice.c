/* Registers backends for the CPU and prints who serves relu, or why nobody does:
 *   choice <dtype> <backend of the handle, or "-"> <name:priority:explicit:dtype that it supports>…
 * and the fallbacks that were counted. A name that begins with "other" has another schema version. */
#include <infiniop.h>

#include "check.h"

struct backend {
    infiniopBackend table;
    infiniopKernel kernel;
    const infiniopKernel *kernels[1];
    int dtype;
};

static infiniStatus_t supports(void *ctx, const infiniopCall *call) {
    return (int)call->tensors[0]->dtype == *(int *)ctx ? INFINI_STATUS_SUCCESS : INFINI_STATUS_NOT_IMPLEMENTED;
}
static infiniStatus_t create(void *ctx, const infiniopCall *call, void **state, size_t *workspace) {
    return (void)ctx, (void)call, *state = NULL, *workspace = 0, INFINI_STATUS_SUCCESS;
}
static infiniStatus_t calculate(void *state, const infiniopRun *run) {
    return (void)state, (void)run, INFINI_STATUS_SUCCESS;
}

static struct backend backends[8];

static void add(struct backend *b, char *text) {
    const char *name = strtok(text, ":");
    memset(b, 0, sizeof *b);
    b->table.struct_size = sizeof b->table;
    b->table.abi_major = INFINIOP_BACKEND_ABI_MAJOR;
    b->table.name = name;
    b->table.device_name = "cpu";
    b->table.priority = atoi(strtok(NULL, ":"));
    b->table.flags = atoi(strtok(NULL, ":")) ? INFINIOP_BACKEND_EXPLICIT_ONLY : 0;
    b->dtype = atoi(strtok(NULL, ":"));
    b->kernel.struct_size = sizeof b->kernel;
    b->kernel.op = "relu";
    b->kernel.schema_version = strncmp(name, "other", 5) == 0 ? 999 : 1;
    b->kernel.supports = supports;
    b->kernel.create = create;
    b->kernel.calculate = calculate;
    b->kernel.ctx = &b->dtype;
    b->kernels[0] = &b->kernel;
    b->table.nkernels = 1;
    b->table.kernels = b->kernels;
    OK(infiniopRegisterBackend(&b->table));
}

static void print_fallbacks(void) {
    size_t count;
    infiniopBackendInfo info;
    OK(infiniopGetBackendCount(&count));
    for (size_t i = 0; i < count; ++i) {
        info.struct_size = sizeof info;
        OK(infiniopGetBackendInfo(i, &info));
        if (info.fallbacks) {
            printf("%s: %llu fallbacks\n", info.name, (unsigned long long)info.fallbacks);
        }
    }
}

int main(int argc, char **argv) {
    const size_t shape[1] = {4};
    infiniopHandle_t handle;
    infiniopTensorDescriptor_t t;
    infiniopReluDescriptor_t desc = NULL;
    infiniStatus_t status;
    CHECK(argc >= 3 && argc - 3 <= 8);
    for (int i = 3; i < argc; ++i) {
        add(&backends[i - 3], argv[i]);
    }
    if (strcmp(argv[2], "-") == 0) {
        OK(infiniopCreateHandle(&handle));
    } else {
        OK(infiniopCreateHandleForBackend(&handle, argv[2]));
    }
    OK(infiniopCreateTensorDescriptor(&t, 1, shape, NULL, (infiniDtype_t)atoi(argv[1])));
    status = infiniopCreateReluDescriptor(handle, &desc, t, t);
    if (status == INFINI_STATUS_SUCCESS) {
        const char *name;
        OK(infiniopGetDescriptorBackend(desc, &name));
        CHECK(infiniopGetLastError()[0] == '\0'); /* a refusal on the way is no failure */
        printf("%s\n", name);
    } else {
        printf("status %d: %s\n", (int)status, infiniopGetLastError());
    }
    print_fallbacks();
    OK(infiniopDestroyReluDescriptor(desc));
    OK(infiniopDestroyTensorDescriptor(t));
    OK(infiniopDestroyHandle(handle));
    return 0;
}
