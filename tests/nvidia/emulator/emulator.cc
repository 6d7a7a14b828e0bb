// The runtime API of the emulator.
#include <malloc.h>

#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

// ---- streams, events, graphs ----------------------------------------------------------------------------------

using Work = std::function<cudaError_t()>;

struct EmulatedGraph {
    std::vector<Work> nodes;
    bool ended = false;
};
struct EmulatedStream {
    std::shared_ptr<EmulatedGraph> capture; // calls are recorded in it until it has ended
    bool origin = false;                    // the capture began here
    bool relaxed = false;

    bool capturing() const { return capture && !capture->ended; }
};
struct EmulatedEvent {
    std::chrono::steady_clock::time_point at;
    std::shared_ptr<EmulatedGraph> capture; // of the stream it was recorded on last
};

namespace {

thread_local int captures = 0; // that this thread began and has not ended, relaxed ones aside
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

cudaError_t submit(cudaStream_t stream, Work work) {
    if (stream && stream->capturing()) {
        stream->capture->nodes.push_back(std::move(work));
        return cudaSuccess;
    }
    return work();
}

// What must not happen while a stream captures.
cudaError_t forbidden_in_capture() {
    return captures && thread_mode != cudaStreamCaptureModeRelaxed ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

int environment(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text && *text ? atoi(text) : otherwise;
}

std::mutex limits_mutex;
std::map<const void *, int> shared_limits; // what kernels were allowed

int attribute(cudaDeviceAttr which) {
    switch (which) {
    case cudaDevAttrMaxThreadsPerBlock:
        return environment("INFINIOP_EMULATOR_THREADS", 1024);
    case cudaDevAttrMultiProcessorCount:
        return environment("INFINIOP_EMULATOR_MULTIPROCESSORS", 4);
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        return 2048;
    case cudaDevAttrComputeCapabilityMajor:
        return environment("INFINIOP_EMULATOR_ARCHITECTURE", 90) / 10;
    case cudaDevAttrComputeCapabilityMinor:
        return environment("INFINIOP_EMULATOR_ARCHITECTURE", 90) % 10;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        return 228 << 10;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return 227 << 10;
    }
    return 0;
}

} // namespace

cudaError_t emulator::launch(const cudaLaunchConfig_t &config, const void *kernel, std::function<void()> body) {
    const dim3 grid = config.gridDim, block = config.blockDim;
    const int asked = [&] {
        const std::lock_guard lock(limits_mutex);
        const auto found = shared_limits.find(kernel);
        return found == shared_limits.end() ? 48 << 10 : found->second;
    }();
    const bool good = grid.x && grid.y && grid.z && grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535 &&
                      block.x && block.y && block.z && block.z <= 64 &&
                      uint64_t(block.x) * block.y * block.z <= uint64_t(attribute(cudaDevAttrMaxThreadsPerBlock)) &&
                      config.dynamicSmemBytes <= size_t(asked);
    if (!good) {
        return cudaErrorInvalidConfiguration;
    }
    return submit(config.stream, [config, body = std::move(body)] {
        return emulator::run_grid(config, body) ? cudaSuccess : cudaErrorLaunchFailure;
    });
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute, int value) {
    if (value > attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) {
        return cudaErrorInvalidValue;
    }
    const std::lock_guard lock(limits_mutex);
    shared_limits[kernel] = value;
    return cudaSuccess;
}

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    case cudaErrorSystemDriverMismatch:
        return "cudaErrorSystemDriverMismatch";
    case cudaErrorStreamCaptureUnsupported:
        return "cudaErrorStreamCaptureUnsupported";
    default:
        return "cudaError";
    }
}

const char *cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaDriverGetVersion(int *version) {
    *version = environment("INFINIOP_EMULATOR_DRIVER", CUDART_VERSION);
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = environment("INFINIOP_EMULATOR_DEVICES", 1); // below 0: the driver fails
    return *count > 0 ? cudaSuccess : *count == 0 ? cudaErrorNoDevice : cudaErrorSystemDriverMismatch;
}

namespace {
thread_local int current_device = 0;
}

cudaError_t cudaGetDevice(int *device) {
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    int count;
    cudaGetDeviceCount(&count);
    if (device < 0 || device >= count) {
        return cudaErrorInvalidDevice;
    }
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr which, int) {
    *value = attribute(which);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { return forbidden_in_capture(); }

// ---- memory ---------------------------------------------------------------------------------------------------

namespace {
std::atomic<size_t> pooled{0}; // bytes that were freed on a stream and not trimmed
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    *free = (size_t(8) << 30) - pooled;
    *total = size_t(16) << 30;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **ptr, size_t size) {
    if (const cudaError_t error = forbidden_in_capture()) {
        return error;
    }
    const bool fits = size + pooled <= size_t(16) << 30;
    return fits && posix_memalign(ptr, 256, size) == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFree(void *ptr) {
    if (const cudaError_t error = forbidden_in_capture()) {
        return error;
    }
    free(ptr);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **ptr, size_t size) { return cudaMalloc(ptr, size); }
cudaError_t cudaFreeHost(void *ptr) { return cudaFree(ptr); }
// In a capture they would become nodes of the graph, which the backend never means. They need no device's attention, so
// that a relaxed thread may call them.
cudaError_t cudaMallocAsync(void **ptr, size_t size, cudaStream_t stream) {
    pooled -= std::min(pooled.load(), size);
    return stream && stream->capturing() ? cudaErrorStreamCaptureUnsupported : cudaMalloc(ptr, size);
}
cudaError_t cudaFreeAsync(void *ptr, cudaStream_t stream) {
    if (stream && stream->capturing()) {
        return cudaErrorStreamCaptureUnsupported;
    }
    const size_t size = malloc_usable_size(ptr);
    const cudaError_t error = cudaFree(ptr);
    pooled += error == cudaSuccess ? size : 0;
    return error;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int) {
    *pool = nullptr;
    return cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void *) { return cudaSuccess; }

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t, cudaMemPoolAttr which, void *value) {
    *static_cast<uint64_t *>(value) = which == cudaMemPoolAttrReservedMemCurrent ? pooled.load() : 0;
    return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) {
    pooled = 0;
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t size, cudaMemcpyKind kind) {
    const cudaError_t error = forbidden_in_capture();
    return error ? error : cudaMemcpyAsync(dst, src, size, kind, nullptr);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t size, cudaMemcpyKind, cudaStream_t stream) {
    return submit(stream, [=] {
        memmove(dst, src, size);
        return cudaSuccess;
    });
}

cudaError_t cudaMemset(void *ptr, int value, size_t size) {
    const cudaError_t error = forbidden_in_capture();
    return error ? error : cudaMemsetAsync(ptr, value, size, nullptr);
}

cudaError_t cudaMemsetAsync(void *ptr, int value, size_t size, cudaStream_t stream) {
    return submit(stream, [=] {
        memset(ptr, value, size);
        return cudaSuccess;
    });
}

// ---- streams and events ---------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = new EmulatedStream;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return stream && stream->capturing() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (stream && event->capture && !event->capture->ended && !stream->capturing()) {
        stream->capture = event->capture;
    }
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new EmulatedEvent{std::chrono::steady_clock::now(), nullptr};
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event->capture = stream ? stream->capture : nullptr;
    return submit(stream, [event] {
        event->at = std::chrono::steady_clock::now();
        return cudaSuccess;
    });
}

cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    *ms = std::chrono::duration<float, std::milli>(end->at - start->at).count();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

// ---- graphs ---------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    if (!stream || stream->capturing()) {
        return cudaErrorStreamCaptureUnsupported;
    }
    stream->capture = std::make_shared<EmulatedGraph>();
    stream->origin = true;
    stream->relaxed = mode == cudaStreamCaptureModeRelaxed;
    captures += !stream->relaxed;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    if (!stream || !stream->origin) {
        return cudaErrorStreamCaptureUnsupported;
    }
    *graph = new EmulatedGraph(*stream->capture);
    stream->capture->ended = true;
    stream->origin = false;
    captures -= !stream->relaxed;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    if (!stream && captures) {
        return cudaErrorStreamCaptureUnsupported;
    }
    *status = stream && stream->capturing() ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode) {
    std::swap(*mode, thread_mode);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new EmulatedGraph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    return submit(stream, [nodes = exec->nodes] {
        for (const Work &work : nodes) {
            if (const cudaError_t error = work()) {
                return error;
            }
        }
        return cudaSuccess;
    });
}
