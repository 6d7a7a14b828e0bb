/* A backend with a device of its own, in plain C: the host's memory under the name "toy".
 * Compiled with -DVARIANT=… it is ill in one way each, for the tests of the registry. */
#include <infiniop/backend.h>

#include <stdlib.h>
#include <string.h>

/* In the order of conftest.py. */
enum {
    GOOD,
    WRONG_MAJOR,
    SHORT,           /* every struct ends before its optional members, and rubbish follows */
    NO_SYMBOL,       /* the init function has another name: a flag of the compiler */
    NULL_WITH_WORDS, /* init gives NULL and says why */
    NULL_SILENT,
    DUPLICATE,
    NO_CALCULATE,
    NO_MALLOC,
    HALF_A_GRAPH,
    BAD_NAME,
    TINY,
    NULL_KERNEL,
    TWICE, /* two kernels for one operator */
    WRONG  /* the last element is one too large */
};
#ifndef VARIANT
#define VARIANT GOOD
#endif

static const infiniopHost *host;

static infiniStatus_t fail(infiniStatus_t status, const char *argument, const char *expected, const char *got) {
    const infiniopError error = {sizeof error, status, NULL, argument, expected, got, NULL};
    host->set_error(&error);
    return status;
}

/* ---- the device */

static infiniStatus_t device_count(int *count) { return *count = 2, INFINI_STATUS_SUCCESS; }
static infiniStatus_t synchronize(int id) { return (void)id, INFINI_STATUS_SUCCESS; }

static infiniStatus_t toy_malloc(int id, void **ptr, size_t size) {
    (void)id;
    *ptr = host->alloc(size, 64);
    return *ptr ? INFINI_STATUS_SUCCESS : fail(INFINI_STATUS_INTERNAL_ERROR, "size", "less", "too much");
}
static infiniStatus_t toy_free(int id, void *ptr) { return (void)id, host->free(ptr), INFINI_STATUS_SUCCESS; }

static infiniStatus_t copy(int id, void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind) {
    (void)id, (void)kind;
    return memmove(dst, src, size), INFINI_STATUS_SUCCESS;
}
static infiniStatus_t copy_async(int id, void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind,
                                 infinirtStream_t stream) {
    return (void)stream, copy(id, dst, src, size, kind);
}
static infiniStatus_t set(int id, void *ptr, int value, size_t count) {
    return (void)id, memset(ptr, value, count), INFINI_STATUS_SUCCESS;
}
static infiniStatus_t set_async(int id, void *ptr, int value, size_t count, infinirtStream_t stream) {
    return (void)stream, set(id, ptr, value, count);
}

static infiniStatus_t new_object(void **object) {
    return (*object = malloc(1)) ? INFINI_STATUS_SUCCESS : INFINI_STATUS_INTERNAL_ERROR;
}
static infiniStatus_t stream_create(int id, infinirtStream_t *stream) { return (void)id, new_object(stream); }
static infiniStatus_t event_create(int id, infinirtEvent_t *event, uint32_t flags) {
    return (void)id, (void)flags, new_object(event);
}
static infiniStatus_t delete_object(void *object) { return free(object), INFINI_STATUS_SUCCESS; }
static infiniStatus_t with_stream(int id, infinirtStream_t stream) {
    return (void)id, (void)stream, INFINI_STATUS_SUCCESS;
}
static infiniStatus_t wait(int id, infinirtStream_t stream, infinirtEvent_t event) {
    return (void)id, (void)stream, (void)event, INFINI_STATUS_SUCCESS;
}
static infiniStatus_t record(int id, infinirtEvent_t event, infinirtStream_t stream) { return wait(id, stream, event); }
static infiniStatus_t query(infinirtEvent_t event, infinirtEventStatus_t *status) {
    return (void)event, *status = INFINIRT_EVENT_COMPLETE, INFINI_STATUS_SUCCESS;
}
static infiniStatus_t event_synchronize(infinirtEvent_t event) { return (void)event, INFINI_STATUS_SUCCESS; }
static infiniStatus_t elapsed(float *ms, infinirtEvent_t start, infinirtEvent_t end) {
    return (void)start, (void)end, *ms = 1.5f, INFINI_STATUS_SUCCESS;
}

/* ---- one kernel: relu on contiguous f32; its state is the number of elements */

static infiniStatus_t supports(void *ctx, const infiniopCall *call) {
    (void)ctx;
    if (call->tensors[0]->dtype != INFINI_DTYPE_F32) {
        return fail(INFINI_STATUS_BAD_TENSOR_DTYPE, "output", "F32 on a toy", "something else");
    }
    return INFINI_STATUS_SUCCESS;
}

static infiniStatus_t create(void *ctx, const infiniopCall *call, void **state, size_t *workspace) {
    static size_t only; /* what has no destroy may not allocate */
    size_t *n = VARIANT == SHORT ? &only : (size_t *)malloc(sizeof *n);
    (void)ctx;
    if (!n) {
        return INFINI_STATUS_INTERNAL_ERROR;
    }
    *n = 1;
    for (size_t i = 0; i < call->tensors[0]->ndim; ++i) {
        *n *= call->tensors[0]->shape[i];
    }
    *state = n;
    *workspace = 16;
    return INFINI_STATUS_SUCCESS;
}

static infiniStatus_t calculate(void *state, const infiniopRun *run) {
    float *output = (float *)run->data[0];
    const float *input = (const float *)run->data[1];
    memset(run->workspace, 0, 16);
    for (size_t i = 0; i < *(size_t *)state; ++i) {
        if (input[i] == 1000.0f) {
            return fail(INFINI_STATUS_BAD_PARAM, "input", "values below 1000", "1000");
        }
        output[i] = (input[i] > 0 ? input[i] : 0) + (VARIANT == WRONG && i + 1 == *(size_t *)state);
    }
    return INFINI_STATUS_SUCCESS;
}

static void destroy(void *state) { free(state); }

static infinirtRuntime runtime = {
    .struct_size = VARIANT == SHORT ? offsetof(infinirtRuntime, begin_capture) : sizeof(infinirtRuntime),
    .device_count = device_count,
    .synchronize = synchronize,
    .malloc = VARIANT == NO_MALLOC ? NULL : toy_malloc,
    .free = toy_free,
    .memcpy = copy,
    .memcpy_async = copy_async,
    .memset = set,
    .memset_async = set_async,
    .stream_create = stream_create,
    .stream_destroy = delete_object,
    .stream_synchronize = with_stream,
    .stream_wait_event = wait,
    .event_create = event_create,
    .event_record = record,
    .event_query = query,
    .event_synchronize = event_synchronize,
    .event_elapsed = elapsed,
    .event_destroy = delete_object,
    .graph_destroy = VARIANT == HALF_A_GRAPH || VARIANT == SHORT ? delete_object : NULL,
};

static const infiniopKernel relu = {
    .struct_size = VARIANT == SHORT ? offsetof(infiniopKernel, destroy) : sizeof(infiniopKernel),
    .op = "relu",
    .schema_version = 1,
    .supports = supports,
    .create = create,
    .calculate = VARIANT == NO_CALCULATE ? NULL : calculate,
    .destroy = VARIANT == SHORT ? (void (*)(void *))(uintptr_t)8 : destroy,
    .ctx = VARIANT == SHORT ? (void *)(uintptr_t)8 : NULL,
};
static const infiniopKernel *const kernels[] = {VARIANT == NULL_KERNEL ? NULL : &relu, &relu};

static const infiniopBackend backend = {
    .struct_size = VARIANT == TINY ? 8 : sizeof(infiniopBackend),
    .abi_major = VARIANT == WRONG_MAJOR ? 7 : INFINIOP_BACKEND_ABI_MAJOR,
    .abi_minor = INFINIOP_BACKEND_ABI_MINOR,
    .name = VARIANT == DUPLICATE  ? "cpu"
            : VARIANT == BAD_NAME ? "Toy, Card"
            : VARIANT == SHORT    ? "short"
                                  : "toy",
    .device_name = VARIANT == SHORT ? "shorttoy" : "toy",
    .version = "1.0",
    .priority = 10,
    .runtime = &runtime,
    .nkernels = VARIANT == TWICE ? 2 : 1,
    .kernels = kernels,
};

__attribute__((visibility("default"))) const infiniopBackend *infiniop_backend_init(const infiniopHost *given) {
    host = given;
    if (VARIANT == NULL_WITH_WORDS) {
        fail(INFINI_STATUS_DEVICE_NOT_FOUND, NULL, "a toy card in the box", "an empty box");
    }
    return VARIANT == NULL_WITH_WORDS || VARIANT == NULL_SILENT ? NULL : &backend;
}
