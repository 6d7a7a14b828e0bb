/* Plugins good and ill, loaded from the folder that argv[1] names. */
#include <infiniop.h>
#include <infinirt.h>

#include "check.h"

static const char *folder;

static infiniStatus_t load(const char *variant) {
    char path[4096];
    snprintf(path, sizeof path, "%s/libtoy_%s.so", folder, variant);
    return infiniopLoadBackend(path);
}

/* The row of a backend, the last one of that name. */
static infiniopBackendInfo row(const char *name) {
    size_t count;
    infiniopBackendInfo info, found;
    memset(&found, 0, sizeof found);
    OK(infiniopGetBackendCount(&count));
    for (size_t i = 0; i < count; ++i) {
        info.struct_size = sizeof info;
        OK(infiniopGetBackendInfo(i, &info));
        found = strcmp(info.name, name) == 0 ? info : found;
    }
    CHECK(found.struct_size == sizeof found);
    return found;
}

static void ill_plugins(void) {
    FAILS(BAD_PARAM, "plugin ABI 7.0, this library speaks 1.0", load("wrong_major"));
    CHECK(strstr(row("toy_wrong_major").error, "7.0"));
    FAILS(BAD_PARAM, "infiniop_backend_init", load("no_symbol"));
    FAILS(DEVICE_NOT_FOUND, "expected a toy card in the box", load("null_with_words"));
    CHECK(strstr(row("toy_null_with_words").error, "toy card"));
    FAILS(DEVICE_NOT_INITIALIZED, "libtoy_null_silent.so", load("null_silent"));
    FAILS(BAD_PARAM, "'cpu' is already there", load("duplicate"));
    CHECK(row("cpu").error[0] == '\0');
    FAILS(BAD_PARAM, "kernel 0: lacks calculate", load("no_calculate"));
    FAILS(BAD_PARAM, "lacks malloc", load("no_malloc"));
    FAILS(BAD_PARAM, "lacks begin_capture", load("half_a_graph"));
    FAILS(BAD_PARAM, "Toy, Card", load("bad_name"));
    FAILS(BAD_PARAM, "struct_size 8", load("tiny"));
    FAILS(BAD_PARAM, "kernel 0: NULL", load("null_kernel"));
    FAILS(BAD_PARAM, "two kernels for relu", load("twice"));
    FAILS(BAD_PARAM, "cannot load", load("that_is_not_there"));
    FAILS(NULL_POINTER, "path", infiniopLoadBackend(NULL));
}

/* relu on the current device through the handle; what came of create, and the backend that serves it. */
static infiniStatus_t relu(infiniopHandle_t handle, infiniDtype_t dtype, infiniopReluDescriptor_t *desc) {
    const size_t shape[1] = {4};
    infiniopTensorDescriptor_t t;
    infiniStatus_t status;
    OK(infiniopCreateTensorDescriptor(&t, 1, shape, NULL, dtype));
    status = infiniopCreateReluDescriptor(handle, desc, t, t);
    OK(infiniopDestroyTensorDescriptor(t));
    return status;
}

static void use(infiniDevice_t device, const char *name) {
    const float in[4] = {-1, 2, -3, 4}, in_bad[4] = {0, 1000, 0, 0};
    float out[4];
    void *a, *b, *workspace;
    size_t size;
    const char *backend;
    infiniDevice_t served;
    int id;
    infiniopHandle_t handle;
    infiniopReluDescriptor_t desc;
    infinirtStream_t stream;
    OK(infinirtSetDevice(device, 1));
    FAILS(DEVICE_NOT_FOUND, "one of the 2 devices", infinirtSetDevice(device, 2));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "does not tell its memory", infinirtGetMemInfo(device, 0, &size, &size));
    OK(infiniopCreateHandle(&handle));
    FAILS(BAD_TENSOR_DTYPE, "F32 on a toy", relu(handle, INFINI_DTYPE_F16, &desc));
    OK(relu(handle, INFINI_DTYPE_F32, &desc));
    OK(infiniopGetDescriptorBackend(desc, &backend));
    OK(infiniopGetDescriptorDeviceType(desc, &served));
    OK(infiniopGetDescriptorDeviceId(desc, &id));
    CHECK(strcmp(backend, name) == 0 && served == device && id == 1);
    OK(infiniopGetReluWorkspaceSize(desc, &size));
    CHECK(size == 16);
    OK(infinirtStreamCreate(&stream));
    OK(infinirtMalloc(&a, sizeof in));
    OK(infinirtMallocAsync(&b, sizeof out, stream));
    OK(infinirtMallocHost(&workspace, size));
    OK(infinirtMemcpyAsync(a, in, sizeof in, INFINIRT_MEMCPY_H2D, stream));
    FAILS(INSUFFICIENT_WORKSPACE, "expected 16 bytes, got 15 bytes", infiniopRelu(desc, workspace, 15, b, a, stream));
    FAILS(NULL_POINTER, "workspace", infiniopRelu(desc, NULL, 16, b, a, stream));
    OK(infiniopRelu(desc, workspace, size, b, a, stream));
    OK(infinirtMemcpy(out, b, sizeof out, INFINIRT_MEMCPY_D2H));
    CHECK(out[0] == 0 && out[1] == 2 && out[2] == 0 && out[3] == 4);
    OK(infinirtMemcpy(a, in_bad, sizeof in, INFINIRT_MEMCPY_H2D));
    FAILS(BAD_PARAM, "relu: input: expected values below 1000, got 1000",
          infiniopRelu(desc, workspace, size, b, a, stream));
    OK(infiniopDestroyReluDescriptor(desc));
    OK(infiniopDestroyHandle(handle));
    OK(infinirtFree(a));
    OK(infinirtFreeAsync(b, stream));
    OK(infinirtFreeHost(workspace));
    OK(infinirtStreamDestroy(stream));
    OK(infinirtSetDevice(INFINI_DEVICE_CPU, 0));
}

static void good_plugin(void) {
    infiniDevice_t device = INFINI_DEVICE_CPU, again;
    const char *name;
    infiniopBackendInfo info;
    int has = -1, count = -1;
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "toy", infiniopGetDeviceByName("toy", &device));
    OK(load("good"));
    OK(infiniopGetDeviceByName("toy", &device));
    CHECK(device >= INFINI_DEVICE_FIRST_REGISTERED);
    OK(infiniopGetDeviceName(device, &name));
    CHECK(strcmp(name, "toy") == 0);
    OK(infinirtGetDeviceCount(device, &count));
    CHECK(count == 2);
    info = row("toy");
    CHECK(info.device == device && info.priority == 10 && info.device_count == 2 && info.nkernels == 1);
    CHECK(strcmp(info.version, "1.0") == 0 && strstr(info.origin, "libtoy_good.so") && info.error[0] == '\0');
    OK(infiniopBackendHasOperator("toy", "relu", &has));
    CHECK(has == 1);
    OK(infiniopBackendHasOperator("toy", "gemm", &has));
    CHECK(has == 0);
    FAILS(BAD_PARAM, "nobody", infiniopBackendHasOperator("nobody", "relu", &has));
    infiniopKernel kernel;
    memset(&kernel, 0, sizeof kernel);
    kernel.struct_size = sizeof kernel;
    OK(infiniopGetKernel("toy", "relu", &kernel));
    CHECK(strcmp(kernel.op, "relu") == 0 && kernel.create && kernel.calculate);
    FAILS(BAD_PARAM, "gemm", infiniopGetKernel("toy", "gemm", &kernel));
    FAILS(BAD_PARAM, "nobody", infiniopGetKernel("nobody", "relu", &kernel));
    kernel.struct_size = 0;
    FAILS(BAD_PARAM, "struct_size", infiniopGetKernel("toy", "relu", &kernel));
    OK(load("good")); /* once more: nothing happens */
    use(device, "toy");
    OK(load("short"));
    OK(infiniopGetDeviceByName("shorttoy", &again));
    CHECK(again == device + 1);
    use(again, "short"); /* its rubbish members were never called */
}

static void devices_apart(void) {
    infiniDevice_t toy;
    infiniopHandle_t handle;
    infinirtStream_t cpu_stream, toy_stream;
    infinirtEvent_t toy_event;
    infinirtGraph_t graph;
    infinirtGraphExec_t exec;
    OK(infiniopGetDeviceByName("toy", &toy));
    OK(infinirtStreamCreate(&cpu_stream));
    OK(infinirtSetDevice(toy, 0));
    OK(infinirtStreamCreate(&toy_stream));
    OK(infinirtEventCreate(&toy_event));
    OK(infinirtStreamBeginCapture(toy_stream, INFINIRT_STREAM_CAPTURE_MODE_GLOBAL));
    OK(infinirtStreamEndCapture(toy_stream, &graph));
    OK(infinirtGraphInstantiate(&exec, graph, NULL, NULL, 0));
    OK(infinirtGraphLaunch(exec, toy_stream));
    FAILS(BAD_PARAM, "a stream of toy 0", infinirtGraphLaunch(exec, cpu_stream));
    FAILS(BAD_PARAM, "a stream of cpu 0", infinirtEventRecord(toy_event, cpu_stream));
    OK(infinirtEventRecord(toy_event, toy_stream));
    OK(infinirtStreamWaitEvent(cpu_stream, toy_event));
    OK(infinirtSetDevice(INFINI_DEVICE_CPU, 0));
    FAILS(BAD_PARAM, "a stream of toy 0", infinirtGraphLaunch(exec, NULL));
    OK(infinirtGraphExecDestroy(exec));
    OK(infinirtGraphDestroy(graph));
    OK(infinirtEventDestroy(toy_event)); /* on whatever device is current */
    OK(infinirtStreamDestroy(toy_stream));
    OK(infinirtStreamDestroy(cpu_stream));
    FAILS(BAD_PARAM, "toy, which is for toy", infiniopCreateHandleForBackend(&handle, "toy"));
    FAILS(BAD_PARAM, "which failed: ", infiniopCreateHandleForBackend(&handle, "toy_wrong_major"));
    FAILS(BAD_PARAM, "one of: cpu, ", infiniopCreateHandleForBackend(&handle, "nobody"));
    FAILS(NULL_POINTER, "backend", infiniopCreateHandleForBackend(&handle, NULL));
    FAILS(NULL_POINTER, "handle_ptr", infiniopCreateHandleForBackend(NULL, "cpu"));
}

static void tables_of_this_process(void) {
    infiniopBackend table = {sizeof table, INFINIOP_BACKEND_ABI_MAJOR, 0, "here", "cpu", NULL, 0, 0, NULL, NULL, 0,
                             NULL};
    infiniopBackend copy;
    infiniopBackendInfo info = {sizeof info, NULL, NULL, INFINI_DEVICE_CPU, NULL, NULL, 0, 0, 0, 0, NULL, 0, NULL};
    FAILS(NULL_POINTER, "backend", infiniopRegisterBackend(NULL));
    copy = table;
    copy.struct_size = 0;
    FAILS(BAD_PARAM, "struct_size 0", infiniopRegisterBackend(&copy));
    copy = table;
    copy.name = NULL;
    FAILS(BAD_PARAM, "name", infiniopRegisterBackend(&copy));
    copy = table;
    copy.device_name = "";
    FAILS(BAD_PARAM, "device_name", infiniopRegisterBackend(&copy));
    copy = table;
    copy.nkernels = 3;
    FAILS(BAD_PARAM, "the array is NULL", infiniopRegisterBackend(&copy));
    copy = table;
    copy.struct_size = sizeof copy + 64; /* of a newer minor version */
    OK(infiniopRegisterBackend(&copy));
    FAILS(BAD_PARAM, "'here' is already there, from this process", infiniopRegisterBackend(&table));
    OK(infiniopReportBackendError("never", "somewhere", "no module named never"));
    CHECK(strcmp(row("never").error, "no module named never") == 0 && strcmp(row("never").origin, "somewhere") == 0);
    FAILS(NULL_POINTER, "name", infiniopReportBackendError(NULL, "", ""));
    FAILS(NULL_POINTER, "count", infiniopGetBackendCount(NULL));
    FAILS(NULL_POINTER, "info", infiniopGetBackendInfo(0, NULL));
    FAILS(BAD_PARAM, "index", infiniopGetBackendInfo(1000, &info));
    info.struct_size = 1;
    FAILS(BAD_PARAM, "struct_size", infiniopGetBackendInfo(0, &info));
}

static void names_and_versions(void) {
    const char *name, *untouched = "?";
    infiniDevice_t device;
    uint32_t major = 9, minor = 9;
    OK(infiniopGetDeviceByName("nvidia", &device));
    CHECK(device == INFINI_DEVICE_NVIDIA);
    OK(infiniopGetDeviceName(INFINI_DEVICE_ALI, &name));
    CHECK(strcmp(name, "ali") == 0);
    name = untouched;
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "11", infiniopGetDeviceName(INFINI_DEVICE_TYPE_COUNT, &name));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "-3", infiniopGetDeviceName((infiniDevice_t)-3, &name));
    CHECK(name == untouched);
    FAILS(NULL_POINTER, "name", infiniopGetDeviceByName(NULL, &device));
    FAILS(NULL_POINTER, "device", infiniopGetDeviceByName("cpu", NULL));
    FAILS(NULL_POINTER, "name", infiniopGetDeviceName(INFINI_DEVICE_CPU, NULL));
    OK(infiniopGetBackendAbiVersion(&major, &minor));
    CHECK(major == INFINIOP_BACKEND_ABI_MAJOR && minor == INFINIOP_BACKEND_ABI_MINOR);
    FAILS(NULL_POINTER, "minor", infiniopGetBackendAbiVersion(&major, NULL));
    CHECK(strchr(infiniopGetVersion(), '.'));
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    folder = argv[1];
    ill_plugins();
    good_plugin();
    devices_apart();
    tables_of_this_process();
    names_and_versions();
    puts("ok");
    return 0;
}
