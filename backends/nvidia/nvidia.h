// What a kernel file of the NVIDIA backend sees on the host: ../kernel.h, dtypes, the device's limits, launches.
//
//     #include "../device.cuh"
//     #include "../nvidia.h"
//
//     template <class T> __global__ void add_kernel(Parameters p) { … }
//
//     struct State {
//         static Status create(const Call &call, State &state, size_t &workspace);
//         Status calculate(const Run &run) const;      // launches, allocates nothing, synchronises nothing
//     };
//     constexpr infiniopKernel kernel = make_kernel<State>(schema::add::op, schema::add::version);
//     [[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;
#pragma once

#include "../kernel.h"
#include "types.h"

namespace infiniop::nvidia {

using namespace backend;

// ---- errors ---------------------------------------------------------------------------------------------------

// SUCCESS, or the CUDA error as status and message; `doing` says what was tried.
Status check(cudaError_t error, const char *doing);

// ---- devices --------------------------------------------------------------------------------------------------

struct Limits {
    int architecture;      // 10 × major + minor
    int multiprocessors;   // their number
    int threads_per_block; // at most
    int threads_per_multiprocessor;
    int shared_per_block; // bytes that a kernel may ask for at a launch (opt-in)
    int shared_per_multiprocessor;
};

constexpr int least_architecture = 80;
constexpr int least_threads = 512; // per block

// Of an existing device; asked once.
Status limits_of(int device_id, Limits &limits /* out */);

// DEVICE_ARCHITECTURE_NOT_SUPPORTED for a device that these kernels cannot run on.
Status check_architecture(const Limits &limits, int device_id);

// Makes a device current for the calling thread, and restores what was.
class OnDevice {
public:
    explicit OnDevice(int device_id);
    ~OnDevice();
    OnDevice(const OnDevice &) = delete;
    OnDevice &operator=(const OnDevice &) = delete;
    Status status() const { return status_; }

private:
    int before_ = -1;
    Status status_;
};

// Whether work on the stream is recorded, or cannot be had: the default stream's while another one captures.
bool is_capturing(cudaStream_t stream);

// ---- launches -------------------------------------------------------------------------------------------------

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The largest number of threads per block that the seed's three steps allow: 4096, 1024 or 512.
inline int block_limit(const Limits &limits) {
    return limits.threads_per_block >= 4096 ? 4096 : limits.threads_per_block >= 1024 ? 1024 : 512;
}

// A grid-stride launch: enough blocks for `items`, but no more than fill the device `waves` times.
struct Plan {
    int blocks;
    int threads;
};
Plan plan_items(const Limits &limits, int64_t items, int threads = 256, int waves = 4);

// Threads for a row of `width` elements, `per_thread` at once: whole warps, a power of two, at most `most`.
int plan_row_threads(int64_t width, int per_thread, int most = 1024);

// Launches a kernel on a stream; a grid without blocks is nothing to do. Errors are returned. More shared memory than a
// kernel has without asking must be the same at every launch on a device: another thread's launch asks for it, too.
template <class... Parameters, class... Arguments>
Status launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared, infinirtStream_t stream,
              const Arguments &...arguments) {
    constexpr size_t without_asking = 48 << 10;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) {
        return INFINI_STATUS_SUCCESS;
    }
    if (shared > without_asking) {
        const Status status = check(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                                         cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)),
                                    "asking for shared memory");
        if (status != INFINI_STATUS_SUCCESS) {
            return status;
        }
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = static_cast<cudaStream_t>(stream);
    return check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), "launching a kernel");
}

// ---- registration ---------------------------------------------------------------------------------------------

// A kernel's state, with the device that it was created for: current during create and calculate.
template <class State> struct Placed {
    State state;
    int device_id;

    static Status create(const Call &call, Placed &self, size_t &workspace) {
        self.device_id = call.raw().device_id;
        Limits limits;
        Status status = limits_of(self.device_id, limits);
        if (status == INFINI_STATUS_SUCCESS) {
            status = check_architecture(limits, self.device_id);
        }
        if (status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        const OnDevice device(self.device_id);
        return device.status() == INFINI_STATUS_SUCCESS ? State::create(call, self.state, workspace) : device.status();
    }

    Status calculate(const Run &run) const {
        const OnDevice device(device_id);
        return device.status() == INFINI_STATUS_SUCCESS ? state.calculate(run) : device.status();
    }
};

template <class State>
constexpr infiniopKernel make_kernel(const char *op, uint32_t schema_version, Supports *supports = nullptr) {
    return backend::make_kernel<Placed<State>>(op, schema_version, supports);
}

// The limits of the device that a call is for; Placed has asked already, so that they are there.
inline Limits limits(const Call &call) {
    Limits found = {};
    limits_of(call.raw().device_id, found);
    return found;
}

// ---- dtypes ---------------------------------------------------------------------------------------------------

// The unsigned type of a size, for what only moves bits.
template <class F> Status visit_size(size_t bytes, F &&f) {
    switch (bytes) {
    case 1:
        return f(Type<uint8_t>{});
    case 2:
        return f(Type<uint16_t>{});
    case 4:
        return f(Type<uint32_t>{});
    case 8:
        return f(Type<uint64_t>{});
    case 16:
        return f(Type<uint4>{});
    default:
        return unsupported_dtype();
    }
}

// ---- alignment: what one 16-byte access needs ----------------------------------------------------------------

inline bool aligned_for(const void *p, size_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }
inline bool aligned(const void *p) { return reinterpret_cast<uintptr_t>(p) % access_bytes == 0; }
inline bool aligned(ptrdiff_t stride, size_t element) { return stride * ptrdiff_t(element) % access_bytes == 0; }

} // namespace infiniop::nvidia
