/* Shadow mode from C: argv[1] is a plugin whose relu is wrong or right, argv[2] its name, argv[3] its device. */
#include <infiniop.h>
#include <infiniop/verify.h>
#include <infinirt.h>

#include "check.h"

static infiniopReluDescriptor_t create(infiniopHandle_t handle) {
    const size_t shape[2] = {2, 2};
    infiniopTensorDescriptor_t t;
    infiniopReluDescriptor_t desc;
    OK(infiniopCreateTensorDescriptor(&t, 2, shape, NULL, INFINI_DTYPE_F32));
    OK(infiniopCreateReluDescriptor(handle, &desc, t, t));
    OK(infiniopDestroyTensorDescriptor(t));
    return desc;
}

/* What came of one call; `out` is what it wrote. */
static infiniStatus_t call(infiniopReluDescriptor_t desc, float *out) {
    const float in[4] = {-1, 2, -3, 4};
    void *x, *y, *workspace;
    size_t size;
    infiniStatus_t status;
    OK(infiniopGetReluWorkspaceSize(desc, &size));
    OK(infinirtMalloc(&x, sizeof in));
    OK(infinirtMalloc(&y, sizeof in));
    OK(infinirtMalloc(&workspace, size));
    OK(infinirtMemcpy(x, in, sizeof in, INFINIRT_MEMCPY_H2D));
    status = infiniopRelu(desc, workspace, size, y, x, NULL);
    OK(infinirtMemcpy(out, y, sizeof in, INFINIRT_MEMCPY_D2H));
    OK(infinirtFree(x));
    OK(infinirtFree(y));
    OK(infinirtFree(workspace));
    return status;
}

static uint64_t differing(void) {
    infiniopVerifyCounts counts;
    counts.struct_size = sizeof counts;
    OK(infiniopGetVerifyCounts(&counts));
    return counts.differing;
}

int main(int argc, char **argv) {
    infiniopVerifyOptions options = {sizeof options, "nobody", 0, 0, NULL};
    infiniDevice_t device;
    infiniopHandle_t handle;
    infiniopReluDescriptor_t desc, unverified;
    infiniopVerifyCounts counts = {sizeof counts, 0, 0, 0};
    float out[4];
    uint64_t before;
    infiniStatus_t status;
    CHECK(argc == 4);
    OK(infiniopLoadBackend(argv[1]));
    OK(infiniopGetDeviceByName(argv[3], &device));
    OK(infinirtSetDevice(device, 0));
    OK(infiniopCreateHandleForBackend(&handle, argv[2]));
    desc = create(handle); /* as the environment says */
    status = call(desc, out);
    printf("%d %s\n", (int)status, infiniopGetLastError());
    FAILS(BAD_PARAM, "backends that are loaded, got nobody", infiniopSetVerify(&options));
    options.against = "";
    OK(infiniopSetVerify(&options));
    unverified = create(handle);
    before = differing();
    OK(call(desc, out)); /* off for descriptors from before, too */
    options.against = "cpu";
    options.keep_going = 1;
    options.folder = getenv("INFINIOP_VERIFY_DIR");
    OK(infiniopSetVerify(&options));
    OK(call(unverified, out));
    CHECK(differing() == before);
    OK(call(desc, out));
    options.tolerance = 1e9;
    OK(infiniopSetVerify(&options));
    OK(call(desc, out));
    printf("%d %g %g %g %g\n", (int)(differing() - before), out[0], out[1], out[2], out[3]);
    OK(infiniopGetVerifyCounts(&counts));
    printf("%d\n", (int)(counts.verified + counts.differing));
    FAILS(NULL_POINTER, "counts", infiniopGetVerifyCounts(NULL));
    options.struct_size = 4;
    FAILS(BAD_PARAM, "struct_size", infiniopSetVerify(&options));
    OK(infiniopDestroyReluDescriptor(desc));
    OK(infiniopDestroyReluDescriptor(unverified));
    OK(infiniopDestroyHandle(handle));
    return 0;
}
