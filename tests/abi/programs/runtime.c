/* Every infinirt call on the CPU. */
#include <infinirt.h>
#include <pthread.h>

#include "check.h"

static const infiniDevice_t bad_device = (infiniDevice_t)12345;

static void *device_of_another_thread(void *unused) {
    infiniDevice_t device = INFINI_DEVICE_NVIDIA;
    int id = 9;
    (void)unused;
    OK(infinirtGetDevice(&device, &id));
    CHECK(device == INFINI_DEVICE_CPU && id == 0);
    return NULL;
}

static void devices(void) {
    infiniDevice_t device;
    int id, count = 9, counts[INFINI_DEVICE_TYPE_COUNT];
    pthread_t thread;
    OK(infinirtInit());
    OK(infinirtGetDevice(&device, &id));
    CHECK(device == INFINI_DEVICE_CPU && id == 0);
    OK(infinirtGetDeviceCount(INFINI_DEVICE_CPU, &count));
    CHECK(count == 1);
    OK(infinirtGetDeviceCount(INFINI_DEVICE_KUNLUN, &count));
    CHECK(count == 0);
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "12345", infinirtGetDeviceCount(bad_device, &count));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "-1", infinirtGetDeviceCount((infiniDevice_t)-1, &count));
    FAILS(NULL_POINTER, "count", infinirtGetDeviceCount(INFINI_DEVICE_CPU, NULL));
    OK(infinirtGetAllDeviceCount(counts));
    CHECK(counts[INFINI_DEVICE_CPU] == 1 && counts[INFINI_DEVICE_KUNLUN] == 0);
    FAILS(NULL_POINTER, "count_array", infinirtGetAllDeviceCount(NULL));

    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "kunlun", infinirtSetDevice(INFINI_DEVICE_KUNLUN, 0));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "12345", infinirtSetDevice(bad_device, 0));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "11", infinirtSetDevice(INFINI_DEVICE_TYPE_COUNT, 0));
    OK(infinirtGetDevice(&device, NULL));
    CHECK(device == INFINI_DEVICE_CPU); /* a failure stores nothing */
    OK(infinirtSetDevice(INFINI_DEVICE_CPU, 5));
    OK(infinirtGetDevice(NULL, &id));
    CHECK(id == 5);
    CHECK(pthread_create(&thread, NULL, device_of_another_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    OK(infinirtSetDevice(INFINI_DEVICE_CPU, 0));
    FAILS(NULL_POINTER, "device_ptr", infinirtGetDevice(NULL, NULL));
    OK(infinirtDeviceSynchronize());
}

static void resources(void) {
    size_t free_bytes = 0, total = 0;
    infinirtDeviceResourceSnapshot_t snapshot;
    CHECK(sizeof snapshot == 80);
    OK(infinirtGetMemInfo(INFINI_DEVICE_CPU, 0, &free_bytes, &total));
    CHECK(free_bytes > 0 && free_bytes <= total);
    FAILS(NULL_POINTER, "free_bytes", infinirtGetMemInfo(INFINI_DEVICE_CPU, 0, NULL, &total));
    FAILS(NULL_POINTER, "total_bytes", infinirtGetMemInfo(INFINI_DEVICE_CPU, 0, &free_bytes, NULL));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "moore", infinirtGetMemInfo(INFINI_DEVICE_MOORE, 0, &free_bytes, &total));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "12345", infinirtGetMemInfo(bad_device, 0, &free_bytes, &total));
    memset(&snapshot, 0xff, sizeof snapshot);
    OK(infinirtGetDeviceResourceSnapshot(INFINI_DEVICE_CPU, 0, &snapshot));
    CHECK(snapshot.valid_fields & INFINIRT_RESOURCE_FIELD_MEMORY_CAPACITY);
    CHECK(snapshot.device_type == INFINI_DEVICE_CPU && snapshot.device_id == 0);
    CHECK(snapshot.used_bytes == snapshot.total_bytes - snapshot.free_bytes && snapshot.total_bytes == total);
    CHECK(snapshot.communication_bytes == 0);
    FAILS(NULL_POINTER, "snapshot", infinirtGetDeviceResourceSnapshot(INFINI_DEVICE_CPU, 0, NULL));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "ali", infinirtGetDeviceResourceSnapshot(INFINI_DEVICE_ALI, 0, &snapshot));
}

static void memory(void) {
    char *a, *b, *untouched = (char *)&bad_device;
    void *p = untouched;
    const infinirtMemcpyKind_t bad_kind = (infinirtMemcpyKind_t)4;
    OK(infinirtMalloc((void **)&a, 100));
    OK(infinirtMallocHost((void **)&b, 100));
    FAILS(INTERNAL_ERROR, "infinirtMalloc", infinirtMalloc(&p, SIZE_MAX / 2));
    CHECK(p == untouched);
    OK(infinirtMalloc(&p, 0));
    OK(infinirtFree(p));
    FAILS(NULL_POINTER, "p_ptr", infinirtMalloc(NULL, 8));
    FAILS(NULL_POINTER, "p_ptr", infinirtMallocHost(NULL, 8));
    FAILS(NULL_POINTER, "p_ptr", infinirtMallocAsync(NULL, 8, NULL));
    OK(infinirtMemset(a, 0x141, 100)); /* a byte, whatever the int */
    CHECK(a[0] == 0x41 && a[99] == 0x41);
    OK(infinirtMemsetAsync(a + 50, 7, 50, NULL));
    for (int kind = INFINIRT_MEMCPY_H2H; kind <= INFINIRT_MEMCPY_D2D; ++kind) {
        memset(b, 0, 100);
        OK(infinirtMemcpy(b, a, 100, (infinirtMemcpyKind_t)kind));
        CHECK(memcmp(a, b, 100) == 0);
        memset(b, 0, 100);
        OK(infinirtMemcpyAsync(b, a, 100, (infinirtMemcpyKind_t)kind, NULL));
        CHECK(memcmp(a, b, 100) == 0);
    }
    FAILS(BAD_PARAM, "kind", infinirtMemcpy(b, a, 100, bad_kind));
    FAILS(BAD_PARAM, "kind", infinirtMemcpyAsync(b, a, 100, (infinirtMemcpyKind_t)-1, NULL));
    FAILS(NULL_POINTER, "dst", infinirtMemcpy(NULL, a, 1, INFINIRT_MEMCPY_D2D));
    FAILS(NULL_POINTER, "src", infinirtMemcpy(b, NULL, 1, INFINIRT_MEMCPY_D2D));
    FAILS(NULL_POINTER, "src", infinirtMemcpyAsync(b, NULL, 1, INFINIRT_MEMCPY_D2D, NULL));
    FAILS(NULL_POINTER, "ptr", infinirtMemset(NULL, 0, 1));
    FAILS(NULL_POINTER, "ptr", infinirtMemsetAsync(NULL, 0, 1, NULL));
    OK(infinirtMemcpy(NULL, NULL, 0, INFINIRT_MEMCPY_H2H));
    OK(infinirtMemset(NULL, 0, 0));
    OK(infinirtMallocAsync(&p, 64, NULL));
    memset(p, 1, 64);
    OK(infinirtFreeAsync(p, NULL));
    OK(infinirtFreeAsync(NULL, NULL));
    OK(infinirtFree(a));
    OK(infinirtFreeHost(b));
    OK(infinirtFree(NULL));
    OK(infinirtFreeHost(NULL));
}

static void streams_and_events(void) {
    infinirtStream_t stream = NULL;
    infinirtEvent_t start, end;
    infinirtEventStatus_t state = INFINIRT_EVENT_NOT_READY;
    float ms = -1;
    char not_a_stream;
    OK(infinirtStreamCreate(&stream));
    CHECK(stream); /* a real object: it can capture */
    FAILS(NULL_POINTER, "stream_ptr", infinirtStreamCreate(NULL));
    OK(infinirtEventCreate(&start));
    OK(infinirtEventCreateWithFlags(&end, 0xffffffffu)); /* unknown bits are ignored */
    FAILS(NULL_POINTER, "event_ptr", infinirtEventCreate(NULL));
    FAILS(NULL_POINTER, "event_ptr", infinirtEventCreateWithFlags(NULL, 0));
    OK(infinirtEventRecord(start, stream));
    OK(infinirtStreamWaitEvent(stream, start));
    OK(infinirtStreamWaitEvent(NULL, start));
    OK(infinirtEventRecord(end, NULL));
    OK(infinirtEventQuery(end, &state));
    CHECK(state == INFINIRT_EVENT_COMPLETE);
    OK(infinirtEventSynchronize(end));
    OK(infinirtEventElapsedTime(&ms, start, end));
    CHECK(ms >= 0 && ms < 60000);
    FAILS(NULL_POINTER, "ms_ptr", infinirtEventElapsedTime(NULL, start, end));
    FAILS(NULL_POINTER, "start", infinirtEventElapsedTime(&ms, NULL, end));
    FAILS(NULL_POINTER, "end", infinirtEventElapsedTime(&ms, start, NULL));
    FAILS(NULL_POINTER, "event", infinirtEventRecord(NULL, stream));
    FAILS(NULL_POINTER, "event", infinirtStreamWaitEvent(stream, NULL));
    FAILS(NULL_POINTER, "event", infinirtEventQuery(NULL, &state));
    FAILS(NULL_POINTER, "status_ptr", infinirtEventQuery(start, NULL));
    FAILS(NULL_POINTER, "event", infinirtEventSynchronize(NULL));
    FAILS(BAD_PARAM, "event", infinirtEventQuery(&not_a_stream, &state));
    OK(infinirtStreamSynchronize(stream));
    OK(infinirtStreamSynchronize(NULL));
    OK(infinirtEventDestroy(start));
    FAILS(BAD_PARAM, "event", infinirtEventDestroy(start));
    OK(infinirtEventDestroy(end));
    OK(infinirtEventDestroy(NULL));
    OK(infinirtStreamDestroy(stream));
    FAILS(BAD_PARAM, "stream", infinirtStreamDestroy(stream));
    FAILS(BAD_PARAM, "stream", infinirtStreamDestroy(&not_a_stream));
    OK(infinirtStreamDestroy(NULL));
}

static void last_error(void) {
    infiniopError error = {sizeof error, INFINI_STATUS_SUCCESS, NULL, NULL, NULL, NULL, NULL};
    infiniopError small = {offsetof(infiniopError, op), INFINI_STATUS_SUCCESS, "kept", NULL, NULL, NULL, NULL};
    FAILS(NULL_POINTER, "p_ptr", infinirtMalloc(NULL, 8));
    CHECK(strcmp(infiniopGetLastError(), "infinirtMalloc: p_ptr: expected a pointer, got NULL") == 0);
    OK(infinirtDeviceSynchronize());
    CHECK(strcmp(infiniopGetLastError(), "infinirtMalloc: p_ptr: expected a pointer, got NULL") == 0);
    OK(infiniopGetLastErrorInfo(&error));
    CHECK(error.status == INFINI_STATUS_NULL_POINTER && strcmp(error.op, "infinirtMalloc") == 0);
    CHECK(strcmp(error.expected, "a pointer") == 0 && strcmp(error.got, "NULL") == 0);
    OK(infiniopGetLastErrorInfo(&small));
    CHECK(small.status == INFINI_STATUS_NULL_POINTER && strcmp(small.op, "kept") == 0);
    FAILS(NULL_POINTER, "error", infiniopGetLastErrorInfo(NULL));
    error.struct_size = 0;
    FAILS(BAD_PARAM, "struct_size", infiniopGetLastErrorInfo(&error));
}

static void *last_error_of_another_thread(void *unused) {
    (void)unused;
    CHECK(strcmp(infiniopGetLastError(), "") == 0);
    return NULL;
}

int main(void) {
    pthread_t thread;
    CHECK(strcmp(infiniopGetLastError(), "") == 0);
    devices();
    resources();
    memory();
    streams_and_events();
    last_error();
    CHECK(pthread_create(&thread, NULL, last_error_of_another_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    puts("ok");
    return 0;
}
