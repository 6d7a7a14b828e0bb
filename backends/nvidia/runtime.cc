#include "runtime.h"

#include <atomic>

#include "nvidia.h"

namespace infiniop::nvidia {
namespace {

cudaStream_t native(infinirtStream_t stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t native_event(infinirtEvent_t event) { return static_cast<cudaEvent_t>(event); }

// Do something with a device current.
template <class Call> Status on(int device_id, const char *doing, Call &&call) {
    const OnDevice device(device_id);
    return device.status() == INFINI_STATUS_SUCCESS ? check(call(), doing) : device.status();
}

// ---- device ---------------------------------------------------------------------------------------------------

// No driver and no device are no error, nor is a driver that fails: there is simply none. Who uses another device must
// not suffer from it. Asked until there is an answer, which a kernel's later failure does not change.
Status device_count(int *count) {
    static std::atomic<int> known{0};
    int found = known.load(std::memory_order_relaxed);
    const cudaError_t error = found > 0 ? cudaSuccess : cudaGetDeviceCount(&found);
    if (error != cudaSuccess) {
        cudaGetLastError();
        found = 0;
    }
    if (error != cudaSuccess && error != cudaErrorNoDevice && error != cudaErrorInsufficientDriver) {
        static const bool told = [error] {
            host->log(INFINIOP_LOG_WARNING,
                      Text("nvidia: no device: %s (%s)", cudaGetErrorString(error), cudaGetErrorName(error)));
            return true;
        }();
        (void)told;
    }
    known.store(found, std::memory_order_relaxed);
    *count = found;
    return INFINI_STATUS_SUCCESS;
}

// A device that is current already stays so, with its context: another library's (pycuda's) may not be the primary one.
Status set_device(int device_id) {
    int current = -1;
    const Status status = check(cudaGetDevice(&current), "asking for the current device");
    return status != INFINI_STATUS_SUCCESS || current == device_id
               ? status
               : check(cudaSetDevice(device_id), "making a device current");
}

Status synchronize(int device_id) {
    return on(device_id, "waiting for a device", [] { return cudaDeviceSynchronize(); });
}

// ---- memory ---------------------------------------------------------------------------------------------------

// What was freed on a stream stays in the device's pool; it is free all the same.
cudaError_t free_memory(int device_id, size_t *free_bytes, size_t *total_bytes) {
    const cudaError_t error = cudaMemGetInfo(free_bytes, total_bytes);
    cudaMemPool_t pool;
    uint64_t reserved = 0, used = 0;
    if (error == cudaSuccess && cudaDeviceGetDefaultMemPool(&pool, device_id) == cudaSuccess &&
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved) == cudaSuccess &&
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used) == cudaSuccess && used < reserved) {
        *free_bytes += reserved - used;
    }
    return error;
}

Status mem_info(int device_id, size_t *free_bytes, size_t *total_bytes) {
    return on(device_id, "asking for free memory", [=] { return free_memory(device_id, free_bytes, total_bytes); });
}

// Gives the pool's free memory back to the device, where other ways of allocating find it.
void trim_pool(int device_id) {
    cudaMemPool_t pool;
    if (cudaDeviceGetDefaultMemPool(&pool, device_id) == cudaSuccess) {
        cudaMemPoolTrimTo(pool, 0);
    }
    cudaGetLastError();
}

Status out_of_memory(int device_id, size_t size) {
    size_t free_bytes = 0, total_bytes = 0;
    free_memory(device_id, &free_bytes, &total_bytes);
    cudaGetLastError();
    return fail(INFINI_STATUS_INTERNAL_ERROR, nullptr, "size",
                Text("at most the %zu bytes that are free on nvidia %d", free_bytes, device_id),
                Text("%zu bytes", size));
}

template <class Call> Status allocate(int device_id, void **ptr, size_t size, const char *doing, Call &&call) {
    const OnDevice device(device_id);
    if (device.status() != INFINI_STATUS_SUCCESS) {
        return device.status();
    }
    void *memory = nullptr;
    cudaError_t error = call(&memory);
    if (error == cudaErrorMemoryAllocation) {
        trim_pool(device_id);
        error = call(&memory);
    }
    if (error == cudaErrorMemoryAllocation) {
        return out_of_memory(device_id, size);
    }
    const Status status = check(error, doing);
    if (status == INFINI_STATUS_SUCCESS) {
        *ptr = memory;
    }
    return status;
}

Status device_malloc(int device_id, void **ptr, size_t size) {
    return allocate(device_id, ptr, size, "allocating", [=](void **memory) { return cudaMalloc(memory, size); });
}

Status device_free(int device_id, void *ptr) {
    return on(device_id, "freeing memory", [=] { return cudaFree(ptr); });
}

Status malloc_host(int device_id, void **ptr, size_t size) {
    return allocate(device_id, ptr, size, "allocating pinned memory",
                    [=](void **memory) { return cudaMallocHost(memory, size); });
}

Status free_host(int device_id, void *ptr) {
    return on(device_id, "freeing pinned memory", [=] { return cudaFreeHost(ptr); });
}

// Freed memory stays with the pool: it would go back to the system at every synchronisation otherwise.
void keep_freed_memory(int device_id) {
    static std::atomic<uint64_t> done{0};
    const uint64_t bit = uint64_t(1) << (device_id % 64);
    cudaMemPool_t pool;
    if (!(done.fetch_or(bit) & bit) && cudaDeviceGetDefaultMemPool(&pool, device_id) == cudaSuccess) {
        uint64_t all = UINT64_MAX;
        cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all);
    }
}

// Memory's own business while a stream captures: on the stream itself an allocation would become a part of the graph,
// and the memory would live within its launches only. Done when this returns.
template <class Call> cudaError_t beside_capture(Call &&call) {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaError_t error = cudaThreadExchangeStreamCaptureMode(&mode);
    if (error != cudaSuccess) {
        return error;
    }
    cudaStream_t aside = nullptr;
    error = cudaStreamCreateWithFlags(&aside, cudaStreamNonBlocking);
    if (error == cudaSuccess) {
        error = call(aside);
        const cudaError_t waited = cudaStreamSynchronize(aside);
        error = error == cudaSuccess ? waited : error;
        cudaStreamDestroy(aside);
    }
    cudaThreadExchangeStreamCaptureMode(&mode);
    return error;
}

template <class Call> cudaError_t on_stream(infinirtStream_t stream, Call &&call) {
    return is_capturing(native(stream)) ? beside_capture(call) : call(native(stream));
}

Status malloc_async(int device_id, void **ptr, size_t size, infinirtStream_t stream) {
    keep_freed_memory(device_id);
    return allocate(device_id, ptr, size, "allocating on a stream", [=](void **memory) {
        return on_stream(stream, [=](cudaStream_t on) { return cudaMallocAsync(memory, size, on); });
    });
}

Status free_async(int device_id, void *ptr, infinirtStream_t stream) {
    return on(device_id, "freeing on a stream",
              [=] { return on_stream(stream, [=](cudaStream_t on) { return cudaFreeAsync(ptr, on); }); });
}

cudaMemcpyKind direction(infinirtMemcpyKind_t kind) {
    switch (kind) {
    case INFINIRT_MEMCPY_H2H:
        return cudaMemcpyHostToHost;
    case INFINIRT_MEMCPY_H2D:
        return cudaMemcpyHostToDevice;
    case INFINIRT_MEMCPY_D2H:
        return cudaMemcpyDeviceToHost;
    default:
        return cudaMemcpyDeviceToDevice;
    }
}

Status copy(int device_id, void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind) {
    return on(device_id, "copying", [=] { return cudaMemcpy(dst, src, size, direction(kind)); });
}

Status copy_async(int device_id, void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind,
                  infinirtStream_t stream) {
    return on(device_id, "copying on a stream",
              [=] { return cudaMemcpyAsync(dst, src, size, direction(kind), native(stream)); });
}

Status set(int device_id, void *ptr, int value, size_t count) {
    return on(device_id, "setting memory", [=] { return cudaMemset(ptr, value, count); });
}

Status set_async(int device_id, void *ptr, int value, size_t count, infinirtStream_t stream) {
    return on(device_id, "setting memory on a stream",
              [=] { return cudaMemsetAsync(ptr, value, count, native(stream)); });
}

// ---- streams and events ---------------------------------------------------------------------------------------

Status stream_create(int device_id, infinirtStream_t *stream) {
    cudaStream_t created = nullptr;
    const Status status =
        on(device_id, "creating a stream", [&] { return cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking); });
    if (status == INFINI_STATUS_SUCCESS) {
        *stream = created;
    }
    return status;
}

Status stream_destroy(infinirtStream_t stream) {
    return check(cudaStreamDestroy(native(stream)), "destroying a stream");
}

Status stream_synchronize(int device_id, infinirtStream_t stream) {
    return on(device_id, "waiting for a stream", [=] { return cudaStreamSynchronize(native(stream)); });
}

Status stream_wait_event(int device_id, infinirtStream_t stream, infinirtEvent_t event) {
    return on(device_id, "waiting for an event on a stream",
              [=] { return cudaStreamWaitEvent(native(stream), native_event(event), 0); });
}

Status event_create(int device_id, infinirtEvent_t *event, uint32_t flags) {
    unsigned options = cudaEventDefault;
    options |= flags & INFINIRT_EVENT_DISABLE_TIMING ? unsigned(cudaEventDisableTiming) : 0u;
    options |= flags & INFINIRT_EVENT_BLOCKING_SYNC ? unsigned(cudaEventBlockingSync) : 0u;
    cudaEvent_t created = nullptr;
    const Status status =
        on(device_id, "creating an event", [&] { return cudaEventCreateWithFlags(&created, options); });
    if (status == INFINI_STATUS_SUCCESS) {
        *event = created;
    }
    return status;
}

Status event_record(int device_id, infinirtEvent_t event, infinirtStream_t stream) {
    return on(device_id, "recording an event", [=] { return cudaEventRecord(native_event(event), native(stream)); });
}

Status event_query(infinirtEvent_t event, infinirtEventStatus_t *status) {
    const cudaError_t error = cudaEventQuery(native_event(event));
    if (error != cudaSuccess && error != cudaErrorNotReady) {
        return check(error, "asking for an event");
    }
    cudaGetLastError(); // "not ready" is an answer
    *status = error == cudaSuccess ? INFINIRT_EVENT_COMPLETE : INFINIRT_EVENT_NOT_READY;
    return INFINI_STATUS_SUCCESS;
}

Status event_synchronize(infinirtEvent_t event) {
    return check(cudaEventSynchronize(native_event(event)), "waiting for an event");
}

Status event_elapsed(float *ms, infinirtEvent_t start, infinirtEvent_t end) {
    return check(cudaEventElapsedTime(ms, native_event(start), native_event(end)), "reading elapsed time");
}

Status event_destroy(infinirtEvent_t event) {
    return check(cudaEventDestroy(native_event(event)), "destroying an event");
}

// ---- graphs ---------------------------------------------------------------------------------------------------

cudaStreamCaptureMode capture_mode(infinirtStreamCaptureMode_t mode) {
    switch (mode) {
    case INFINIRT_STREAM_CAPTURE_MODE_GLOBAL:
        return cudaStreamCaptureModeGlobal;
    case INFINIRT_STREAM_CAPTURE_MODE_THREAD_LOCAL:
        return cudaStreamCaptureModeThreadLocal;
    default:
        return cudaStreamCaptureModeRelaxed;
    }
}

Status begin_capture(int device_id, infinirtStream_t stream, infinirtStreamCaptureMode_t mode) {
    return on(device_id, "beginning a capture",
              [=] { return cudaStreamBeginCapture(native(stream), capture_mode(mode)); });
}

Status end_capture(int device_id, infinirtStream_t stream, infinirtGraph_t *graph) {
    cudaGraph_t captured = nullptr;
    const Status status =
        on(device_id, "ending a capture", [&] { return cudaStreamEndCapture(native(stream), &captured); });
    if (status == INFINI_STATUS_SUCCESS) {
        *graph = captured;
    }
    return status;
}

Status graph_destroy(infinirtGraph_t graph) {
    return check(cudaGraphDestroy(static_cast<cudaGraph_t>(graph)), "destroying a graph");
}

Status graph_instantiate(infinirtGraphExec_t *exec, infinirtGraph_t graph, infinirtGraphNode_t *node, char *log,
                         size_t log_size) {
    cudaGraphExec_t created = nullptr;
    const Status status =
        check(cudaGraphInstantiate(&created, static_cast<cudaGraph_t>(graph), 0), "instantiating a graph");
    if (node) {
        *node = nullptr; // CUDA has not named the offender since version 12
    }
    if (log && log_size) {
        log[0] = '\0';
    }
    if (status == INFINI_STATUS_SUCCESS) {
        *exec = created;
    }
    return status;
}

Status graph_exec_destroy(infinirtGraphExec_t exec) {
    return check(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(exec)), "destroying a graph");
}

Status graph_launch(infinirtGraphExec_t exec, infinirtStream_t stream) {
    return check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(exec), native(stream)), "launching a graph");
}

constexpr infinirtRuntime make_runtime() {
    infinirtRuntime r = {};
    r.struct_size = sizeof(r);
    r.device_count = device_count;
    r.set_device = set_device;
    r.synchronize = synchronize;
    r.mem_info = mem_info;
    r.malloc = device_malloc;
    r.free = device_free;
    r.malloc_host = malloc_host;
    r.free_host = free_host;
    r.malloc_async = malloc_async;
    r.free_async = free_async;
    r.memcpy = copy;
    r.memcpy_async = copy_async;
    r.memset = set;
    r.memset_async = set_async;
    r.stream_create = stream_create;
    r.stream_destroy = stream_destroy;
    r.stream_synchronize = stream_synchronize;
    r.stream_wait_event = stream_wait_event;
    r.event_create = event_create;
    r.event_record = event_record;
    r.event_query = event_query;
    r.event_synchronize = event_synchronize;
    r.event_elapsed = event_elapsed;
    r.event_destroy = event_destroy;
    r.begin_capture = begin_capture;
    r.end_capture = end_capture;
    r.graph_destroy = graph_destroy;
    r.graph_instantiate = graph_instantiate;
    r.graph_exec_destroy = graph_exec_destroy;
    r.graph_launch = graph_launch;
    return r;
}

} // namespace

constexpr infinirtRuntime constant = make_runtime();
const infinirtRuntime runtime = constant;

} // namespace infiniop::nvidia
