// CUDA on the CPU, as much of it as backends/nvidia uses: it stands in for CUDA's own <cuda_runtime.h> when the backend
// is built by g++, so that its logic (launch plans, indices, barriers, warp exchanges) can be tested without a GPU.
//
// Blocks run one after the other; the threads of a block are fibers that switch at barriers and warp exchanges.
// "Device" memory is host memory, streams run at once, a capturing stream records. Timing and everything else of the
// hardware's is not modelled. Accesses to memory that no barrier orders are found (races.cc), whatever order the
// threads ran in; INFINIOP_EMULATOR_ORDER=reverse runs blocks and threads backwards.
#pragma once

#define INFINIOP_CUDA_EMULATED 1

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

// ---- the language ---------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
// Blocks run one at a time. A thread's statics lie together, so that races.cc knows shared memory by its address;
// AddressSanitizer sees the ends of plain ones only.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ static thread_local
#endif
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

struct alignas(8) uint2 {
    unsigned x, y;
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// Of the thread that runs.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

namespace emulator {

void *dynamic_shared();

// Every lane of `mask` gives `bytes` (at most 64) and finds those of lane i at all + i * bytes; others' are undefined.
// Orders no accesses to memory: "These intrinsics do not imply a memory barrier" (CUDA C++ Programming Guide, warp
// shuffle, vote, match and reduce functions), other than __syncwarp.
void exchange(unsigned mask, const void *mine, size_t bytes, void *all);
void warp_barrier(unsigned mask);
unsigned lane();
void block_barrier();
int block_sum(int value);                  // over the block's threads, at a barrier
void atomic_access(void *p, size_t bytes); // is about to happen

// cp.async: what is copied arrives at the wait, no sooner; until then there is NaN. `valid` false: zeros.
void copy_async_16(void *shared, const void *from, bool valid);
void copy_async_commit();
void copy_async_wait(unsigned newest); // commits that need not have arrived

} // namespace emulator

// The whole warp.
inline void warp_exchange(const void *mine, size_t bytes, void *all) {
    emulator::exchange(0xffffffffu, mine, bytes, all);
}

// ---- barriers, shuffles, votes ---------------------------------------------------------------------------------

inline void __syncthreads() { emulator::block_barrier(); }
inline int __syncthreads_count(int predicate) { return emulator::block_sum(predicate != 0); }
inline int __syncthreads_or(int predicate) { return emulator::block_sum(predicate != 0) != 0; }
inline int __syncthreads_and(int predicate) { return emulator::block_sum(predicate == 0) == 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}

inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::warp_barrier(mask); }

template <class T> T emulated_shuffle(unsigned mask, T value, int source) {
    T all[32];
    emulator::exchange(mask, &value, sizeof(T), all);
    return all[source & 31];
}

template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    const int base = int(emulator::lane()) & ~(width - 1);
    return emulated_shuffle(mask, value, base + (source & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const int lane = int(emulator::lane()), source = lane ^ bits;
    return emulated_shuffle(mask, value, source < (lane & ~(width - 1)) + width ? source : lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned step, int width = 32) {
    const int lane = int(emulator::lane()), source = lane - int(step);
    return emulated_shuffle(mask, value, source >= (lane & ~(width - 1)) ? source : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned step, int width = 32) {
    const int lane = int(emulator::lane()), source = lane + int(step);
    return emulated_shuffle(mask, value, source < (lane & ~(width - 1)) + width ? source : lane);
}

template <class T, class Op> T emulated_reduce(unsigned mask, T value, Op op) {
    T all[32];
    emulator::exchange(mask, &value, sizeof(T), all);
    bool first = true;
    for (int i = 0; i < 32; i++) {
        if (mask >> i & 1) {
            value = first ? all[i] : op(value, all[i]);
            first = false;
        }
    }
    return value;
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    const unsigned mine = predicate ? 1u << emulator::lane() : 0;
    return emulated_reduce(mask, mine, [](unsigned a, unsigned b) { return a | b; });
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }
template <class T> unsigned __match_any_sync(unsigned mask, T value) {
    T all[32];
    emulator::exchange(mask, &value, sizeof(T), all);
    unsigned same = 0;
    for (int i = 0; i < 32; i++) {
        same |= (mask >> i & 1) && all[i] == value ? 1u << i : 0;
    }
    return same;
}
template <class T> T __reduce_add_sync(unsigned mask, T value) {
    return emulated_reduce(mask, value, [](T a, T b) { return T(a + b); });
}
template <class T> T __reduce_min_sync(unsigned mask, T value) {
    return emulated_reduce(mask, value, [](T a, T b) { return b < a ? b : a; });
}
template <class T> T __reduce_max_sync(unsigned mask, T value) {
    return emulated_reduce(mask, value, [](T a, T b) { return a < b ? b : a; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value) {
    return emulated_reduce(mask, value, [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value) {
    return emulated_reduce(mask, value, [](unsigned a, unsigned b) { return a & b; });
}

// ---- atomics: only one thread runs at a time -------------------------------------------------------------------

template <class T, class Op> __attribute__((no_sanitize("thread"))) T emulated_atomic(T *p, Op op) {
    emulator::atomic_access(p, sizeof(T));
    const T before = *p;
    *p = op(before);
    return before;
}
template <class T> using emulated_same = std::common_type_t<T>; // keeps the value out of deduction
template <class T> T atomicAdd(T *p, emulated_same<T> v) {
    return emulated_atomic(p, [=](T x) { return T(x + v); });
}
template <class T> T atomicMax(T *p, emulated_same<T> v) {
    return emulated_atomic(p, [=](T x) { return x < v ? v : x; });
}
template <class T> T atomicMin(T *p, emulated_same<T> v) {
    return emulated_atomic(p, [=](T x) { return v < x ? v : x; });
}
template <class T> T atomicOr(T *p, emulated_same<T> v) {
    return emulated_atomic(p, [=](T x) { return T(x | v); });
}
template <class T> T atomicExch(T *p, emulated_same<T> v) {
    return emulated_atomic(p, [=](T) { return v; });
}
template <class T> T atomicCAS(T *p, emulated_same<T> expected, emulated_same<T> v) {
    return emulated_atomic(p, [=](T x) { return x == expected ? v : x; });
}

// ---- arithmetic -----------------------------------------------------------------------------------------------

template <class A, class B> constexpr std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <class A, class B> constexpr std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }
template <class To, class From> To emulated_bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To out;
    std::memcpy(&out, &x, sizeof(out));
    return out;
}
inline unsigned __float_as_uint(float x) { return emulated_bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulated_bits<float>(x); }
inline int __float_as_int(float x) { return emulated_bits<int>(x); }
inline float __int_as_float(int x) { return emulated_bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulated_bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulated_bits<double>(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
    unsigned out = 0;
    for (int i = 0; i < 32; i++) {
        out |= (x >> i & 1) << (31 - i);
    }
    return out;
}
template <class T> T __ldg(const T *p) { return *p; }

// ---- the runtime API ------------------------------------------------------------------------------------------

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInitializationError = 3,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorNotReady = 600,
    cudaErrorLaunchFailure = 719,
    cudaErrorSystemDriverMismatch = 803,
    cudaErrorStreamCaptureUnsupported = 900,
};
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();

#define CUDART_VERSION 13000

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock,
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxThreadsPerMultiProcessor,
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
};
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDeviceSynchronize();

struct EmulatedStream;
struct EmulatedEvent;
struct EmulatedGraph;
using cudaStream_t = EmulatedStream *;
using cudaEvent_t = EmulatedEvent *;
using cudaGraph_t = EmulatedGraph *;
using cudaGraphExec_t = EmulatedGraph *;
using cudaMemPool_t = void *;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
};
enum cudaMemPoolAttr {
    cudaMemPoolAttrReleaseThreshold = 4,
    cudaMemPoolAttrReservedMemCurrent = 5,
    cudaMemPoolAttrUsedMemCurrent = 7,
};
cudaError_t cudaMemGetInfo(size_t *free, size_t *total);
cudaError_t cudaMalloc(void **ptr, size_t size);
cudaError_t cudaFree(void *ptr);
cudaError_t cudaMallocHost(void **ptr, size_t size);
cudaError_t cudaFreeHost(void *ptr);
cudaError_t cudaMallocAsync(void **ptr, size_t size, cudaStream_t stream);
cudaError_t cudaFreeAsync(void *ptr, cudaStream_t stream);
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *pool, int device);
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void *value);
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void *value);
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, size_t bytes);
cudaError_t cudaMemcpy(void *dst, const void *src, size_t size, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t size, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemset(void *ptr, int value, size_t count);
cudaError_t cudaMemsetAsync(void *ptr, int value, size_t count, cudaStream_t stream);

enum { cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end);
cudaError_t cudaEventDestroy(cudaEvent_t event);

enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed,
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode *mode);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);

// ---- launches -------------------------------------------------------------------------------------------------

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value);

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    void *attrs;
    unsigned numAttrs;
};

namespace emulator {
cudaError_t launch(const cudaLaunchConfig_t &config, const void *kernel, std::function<void()> body);
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Parameters...),
                               Arguments &&...arguments) {
    return emulator::launch(*config, reinterpret_cast<const void *>(kernel),
                            [kernel, values = std::tuple<Parameters...>(arguments...)] { std::apply(kernel, values); });
}
