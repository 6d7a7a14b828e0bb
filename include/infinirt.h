/* Runtime: devices, memory, streams, events and graphs, the same calls on every device.
 * The current device is per thread, initially (cpu, 0); calls without a device argument act on it.
 * A NULL stream is the device's default stream. Valid C11 and C++17. */
#ifndef INFINIRT_H
#define INFINIRT_H

#include "infinicore.h"

typedef enum infinirtResourceField_t {
    INFINIRT_RESOURCE_FIELD_NONE = 0,
    INFINIRT_RESOURCE_FIELD_MEMORY_CAPACITY = 1,
    INFINIRT_RESOURCE_FIELD_COMPUTE_UTILIZATION = 2,
    INFINIRT_RESOURCE_FIELD_MEMORY_BANDWIDTH_UTILIZATION = 4,
    INFINIRT_RESOURCE_FIELD_KERNEL_TIME_RATIO = 8,
    INFINIRT_RESOURCE_FIELD_COMMUNICATION = 16,
    INFINIRT_RESOURCE_FIELD_ENUM_MAX = 0x7fffffff
} infinirtResourceField_t;

typedef enum infinirtEventStatus_t {
    INFINIRT_EVENT_COMPLETE = 0,
    INFINIRT_EVENT_NOT_READY = 1,
    INFINIRT_EVENT_STATUS_ENUM_MAX = 0x7fffffff
} infinirtEventStatus_t;

typedef enum infinirtEventFlags_t {
    INFINIRT_EVENT_DEFAULT = 0,
    INFINIRT_EVENT_DISABLE_TIMING = 1,
    INFINIRT_EVENT_BLOCKING_SYNC = 2,
    INFINIRT_EVENT_FLAGS_ENUM_MAX = 0x7fffffff
} infinirtEventFlags_t;

typedef enum infinirtMemcpyKind_t {
    INFINIRT_MEMCPY_H2H = 0,
    INFINIRT_MEMCPY_H2D = 1,
    INFINIRT_MEMCPY_D2H = 2,
    INFINIRT_MEMCPY_D2D = 3,
    INFINIRT_MEMCPY_ENUM_MAX = 0x7fffffff
} infinirtMemcpyKind_t;

typedef enum infinirtStreamCaptureMode_t {
    INFINIRT_STREAM_CAPTURE_MODE_GLOBAL = 0,
    INFINIRT_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1,
    INFINIRT_STREAM_CAPTURE_MODE_RELAXED = 2,
    INFINIRT_STREAM_CAPTURE_MODE_ENUM_MAX = 0x7fffffff
} infinirtStreamCaptureMode_t;

typedef void *infinirtStream_t;
typedef void *infinirtEvent_t;
typedef void *infinirtGraph_t;
typedef void *infinirtGraphNode_t;
typedef void *infinirtGraphExec_t;

/* What a device's monitor knows. `valid_fields` and `estimated_fields` are bits of infinirtResourceField_t;
 * utilisations are fractions from 0 to 1; sizes are bytes. */
typedef struct infinirtDeviceResourceSnapshot_t {
    infiniDevice_t device_type;
    int device_id;
    uint64_t valid_fields;
    uint64_t estimated_fields;
    size_t free_bytes;
    size_t total_bytes;
    size_t used_bytes;
    size_t reserved_bytes;
    float compute_utilization;
    float memory_bandwidth_utilization;
    float kernel_time_ratio;
    float communication_time_ratio;
    uint64_t communication_bytes;
} infinirtDeviceResourceSnapshot_t;

INFINI_API infiniStatus_t infinirtInit(void);
INFINI_API infiniStatus_t infinirtGetAllDeviceCount(int *count_array);
INFINI_API infiniStatus_t infinirtGetDeviceCount(infiniDevice_t device, int *count);
INFINI_API infiniStatus_t infinirtSetDevice(infiniDevice_t device, int device_id);
INFINI_API infiniStatus_t infinirtGetDevice(infiniDevice_t *device_ptr, int *device_id_ptr);
INFINI_API infiniStatus_t infinirtGetMemInfo(
    infiniDevice_t device, int device_id, size_t *free_bytes, size_t *total_bytes);
INFINI_API infiniStatus_t infinirtGetDeviceResourceSnapshot(
    infiniDevice_t device, int device_id, infinirtDeviceResourceSnapshot_t *snapshot);
INFINI_API infiniStatus_t infinirtDeviceSynchronize(void);
INFINI_API infiniStatus_t infinirtStreamCreate(infinirtStream_t *stream_ptr);
INFINI_API infiniStatus_t infinirtStreamDestroy(infinirtStream_t stream);
INFINI_API infiniStatus_t infinirtStreamSynchronize(infinirtStream_t stream);
INFINI_API infiniStatus_t infinirtStreamWaitEvent(infinirtStream_t stream, infinirtEvent_t event);
INFINI_API infiniStatus_t infinirtEventCreate(infinirtEvent_t *event_ptr);
INFINI_API infiniStatus_t infinirtEventCreateWithFlags(infinirtEvent_t *event_ptr, uint32_t flags);
INFINI_API infiniStatus_t infinirtEventRecord(infinirtEvent_t event, infinirtStream_t stream);
INFINI_API infiniStatus_t infinirtEventQuery(infinirtEvent_t event, infinirtEventStatus_t *status_ptr);
INFINI_API infiniStatus_t infinirtEventSynchronize(infinirtEvent_t event);
INFINI_API infiniStatus_t infinirtEventDestroy(infinirtEvent_t event);
INFINI_API infiniStatus_t infinirtEventElapsedTime(float *ms_ptr, infinirtEvent_t start, infinirtEvent_t end);
INFINI_API infiniStatus_t infinirtMalloc(void * *p_ptr, size_t size);
INFINI_API infiniStatus_t infinirtMallocHost(void * *p_ptr, size_t size);
INFINI_API infiniStatus_t infinirtFree(void *ptr);
INFINI_API infiniStatus_t infinirtFreeHost(void *ptr);
INFINI_API infiniStatus_t infinirtMemcpy(void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind);
INFINI_API infiniStatus_t infinirtMemcpyAsync(
    void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind, infinirtStream_t stream);
INFINI_API infiniStatus_t infinirtMallocAsync(void * *p_ptr, size_t size, infinirtStream_t stream);
INFINI_API infiniStatus_t infinirtFreeAsync(void *ptr, infinirtStream_t stream);
INFINI_API infiniStatus_t infinirtMemset(void *ptr, int value, size_t count);
INFINI_API infiniStatus_t infinirtMemsetAsync(void *ptr, int value, size_t count, infinirtStream_t stream);
INFINI_API infiniStatus_t infinirtStreamBeginCapture(
    infinirtStream_t stream, infinirtStreamCaptureMode_t mode);
INFINI_API infiniStatus_t infinirtStreamEndCapture(infinirtStream_t stream, infinirtGraph_t *graph_ptr);
/* Whether calls on the stream are recorded now; it began a capture or joined one. Not in InfiniCore. */
INFINI_API infiniStatus_t infinirtStreamIsCapturing(infinirtStream_t stream, int *capturing);
INFINI_API infiniStatus_t infinirtGraphDestroy(infinirtGraph_t graph);
INFINI_API infiniStatus_t infinirtGraphInstantiate(
    infinirtGraphExec_t *graph_exec_ptr, infinirtGraph_t graph, infinirtGraphNode_t *node_ptr, char *log_buffer, size_t buffer_size);
INFINI_API infiniStatus_t infinirtGraphExecDestroy(infinirtGraphExec_t graph_exec);
INFINI_API infiniStatus_t infinirtGraphLuanch(infinirtGraphExec_t graph_exec, infinirtStream_t stream);
/* The same call as infinirtGraphLuanch, whose spelling is part of the upstream ABI. */
INFINI_API infiniStatus_t infinirtGraphLaunch(infinirtGraphExec_t graph_exec, infinirtStream_t stream);

#endif
