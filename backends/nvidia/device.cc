// What all kernels share on the host: errors, limits, the current device, launch plans.
#include <algorithm>
#include <array>
#include <mutex>

#include "nvidia.h"

namespace infiniop::nvidia {

Status check(cudaError_t error, const char *doing) {
    if (error == cudaSuccess) {
        return INFINI_STATUS_SUCCESS;
    }
    cudaGetLastError(); // not to be found again by somebody else's check
    const Text sentence("CUDA, %s: %s (%s)", doing, cudaGetErrorString(error), cudaGetErrorName(error));
    const Status status = error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction
                              ? INFINI_STATUS_DEVICE_ARCHITECTURE_NOT_SUPPORTED
                          : error == cudaErrorInvalidDevice || error == cudaErrorNoDevice
                              ? INFINI_STATUS_DEVICE_NOT_FOUND
                          : error == cudaErrorInsufficientDriver || error == cudaErrorInitializationError
                              ? INFINI_STATUS_DEVICE_NOT_INITIALIZED
                              : INFINI_STATUS_INTERNAL_ERROR;
    const infiniopError failure = {sizeof(failure), status, nullptr, nullptr, nullptr, nullptr, sentence};
    host->set_error(&failure);
    return status;
}

namespace {

Status query_limits(int device_id, Limits &limits) {
    int major = 0, minor = 0;
    const std::pair<cudaDeviceAttr, int *> wanted[] = {
        {cudaDevAttrComputeCapabilityMajor, &major},
        {cudaDevAttrComputeCapabilityMinor, &minor},
        {cudaDevAttrMultiProcessorCount, &limits.multiprocessors},
        {cudaDevAttrMaxThreadsPerBlock, &limits.threads_per_block},
        {cudaDevAttrMaxThreadsPerMultiProcessor, &limits.threads_per_multiprocessor},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, &limits.shared_per_block},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &limits.shared_per_multiprocessor},
    };
    for (const auto &[attribute, value] : wanted) {
        if (const Status status =
                check(cudaDeviceGetAttribute(value, attribute, device_id), "reading a device's limits");
            status != INFINI_STATUS_SUCCESS) {
            return status;
        }
    }
    limits.architecture = 10 * major + minor;
    return INFINI_STATUS_SUCCESS;
}

} // namespace

Status limits_of(int device_id, Limits &limits) {
    static std::mutex mutex;
    static std::array<Limits, 64> known = {}; // architecture 0: not asked yet
    if (device_id < 0 || size_t(device_id) >= known.size()) {
        return query_limits(device_id, limits);
    }
    const std::lock_guard lock(mutex);
    Limits &entry = known[size_t(device_id)];
    if (entry.architecture == 0) {
        Limits found = {};
        if (const Status status = query_limits(device_id, found); status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        entry = found;
    }
    limits = entry;
    return INFINI_STATUS_SUCCESS;
}

Status check_architecture(const Limits &limits, int device_id) {
    if (limits.architecture < least_architecture) {
        return fail(INFINI_STATUS_DEVICE_ARCHITECTURE_NOT_SUPPORTED, nullptr, "device",
                    Text("compute capability %d.%d or newer", least_architecture / 10, least_architecture % 10),
                    Text("nvidia %d of %d.%d", device_id, limits.architecture / 10, limits.architecture % 10));
    }
    if (limits.threads_per_block < least_threads) {
        return fail(INFINI_STATUS_DEVICE_ARCHITECTURE_NOT_SUPPORTED, nullptr, "device",
                    Text("at least %d threads per block", least_threads),
                    Text("nvidia %d of %d", device_id, limits.threads_per_block));
    }
    return INFINI_STATUS_SUCCESS;
}

OnDevice::OnDevice(int device_id) {
    int current = -1;
    status_ = check(cudaGetDevice(&current), "asking for the current device");
    if (status_ == INFINI_STATUS_SUCCESS && current != device_id) {
        status_ = check(cudaSetDevice(device_id), "making a device current");
        before_ = current;
    }
}

OnDevice::~OnDevice() {
    if (before_ >= 0) {
        cudaSetDevice(before_);
    }
}

bool is_capturing(cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream, &status) != cudaSuccess) {
        cudaGetLastError();
        return true;
    }
    return status != cudaStreamCaptureStatusNone;
}

Plan plan_items(const Limits &limits, int64_t items, int threads, int waves) {
    threads = std::min(threads, block_limit(limits));
    const int64_t fill = int64_t(limits.multiprocessors) * (limits.threads_per_multiprocessor / threads) * waves;
    return {int(std::min(ceil_div(items, threads), fill)), threads};
}

int plan_row_threads(int64_t width, int per_thread, int most) {
    int threads = warp_size;
    while (threads < most && int64_t(threads) * per_thread < width) {
        threads *= 2;
    }
    return threads;
}

} // namespace infiniop::nvidia
