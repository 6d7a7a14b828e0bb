// What kernels are written with: conversions, 16-byte accesses, warp and block reductions, shared memory.
// No host header but the CUDA runtime's; compiled by g++ too, for the emulator (tests/nvidia/emulator).
#pragma once

#include <cstring>
#include <type_traits>

#include "types.h"

namespace infiniop::nvidia {

constexpr float log2e = 1.4426950408889634f;

// ---- conversions ----------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

#ifdef INFINIOP_CUDA_EMULATED
inline float to_float(f16 x) {
    _Float16 value;
    memcpy(&value, &x, sizeof(value));
    return float(value);
}

inline f16 to_f16(float x) {
    const _Float16 value = _Float16(x);
    f16 out;
    memcpy(&out, &value, sizeof(out));
    return out;
}

inline bf16 to_bf16(float x) {
    const uint32_t bits = __float_as_uint(x);
    if (x != x) {
        return {0x7fff};
    }
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float exp2_fast(float x) { return x < -126.0f ? 0.0f : exp2f(x); }
inline float reciprocal_fast(float x) { return 1.0f / x; }
inline float max_or_nan(float a, float b) { return a > b || a != a ? a : b; }
#else
__device__ __forceinline__ float to_float(f16 x) {
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
    return out;
}

__device__ __forceinline__ f16 to_f16(float x) {
    f16 out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
    return out;
}

__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
    return out;
}

// 2 ^ x; results below the smallest normal number are 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// 1 / x; results below the smallest normal number are 0.
__device__ __forceinline__ float reciprocal_fast(float x) {
    float out;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

__device__ __forceinline__ float max_or_nan(float a, float b) {
    float out;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(out) : "f"(a), "f"(b));
    return out;
}
#endif

// Rounds to nearest even.
template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ f16 from_float<f16>(float x) { return to_f16(x); }
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) { return to_bf16(x); }

// To and from the type that computations use.
template <class T> __device__ __forceinline__ compute_t<T> widen(T x) {
    if constexpr (std::is_same_v<T, compute_t<T>>) {
        return x;
    } else {
        return to_float(x);
    }
}
template <class T> __device__ __forceinline__ T narrow(compute_t<T> x) {
    if constexpr (std::is_same_v<T, compute_t<T>>) {
        return x;
    } else {
        return from_float<T>(x);
    }
}

// ---- memory ---------------------------------------------------------------------------------------------------

// N elements that travel together; with 16 bytes, in one access.
template <class T, int N> struct alignas(N * sizeof(T)) Pack {
    T v[N];
};

template <class T> constexpr int lanes_of = access_bytes / int(sizeof(T)); // elements in one access

template <int N, class T> __device__ __forceinline__ Pack<T, N> load_pack(const T *p) {
    return *reinterpret_cast<const Pack<T, N> *>(p);
}

// To global memory. Written as an assignment, nvcc cuts 16 bytes of halves into four accesses.
template <int N, class T> __device__ __forceinline__ void store_pack(T *p, const Pack<T, N> &value) {
#ifndef INFINIOP_CUDA_EMULATED
    if constexpr (sizeof(value) == access_bytes) {
        uint32_t w[4];
        memcpy(w, &value, sizeof(w));
        asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                     :
                     : "l"(__cvta_generic_to_global(p)), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3])
                     : "memory");
        return;
    }
#endif
    *reinterpret_cast<Pack<T, N> *>(p) = value;
}

// A pack in the type that computations use; of two bf16 in a word, the upper one is a float but for the lower.
template <class T, int N>
__device__ __forceinline__ void widen_pack(const Pack<T, N> &pack, compute_t<T> (&values)[N]) {
    if constexpr (std::is_same_v<T, bf16> && N % 2 == 0) {
        uint32_t words[N / 2];
        memcpy(words, &pack, sizeof(words));
#pragma unroll
        for (int k = 0; k < N / 2; k++) {
            values[2 * k] = __uint_as_float(words[k] << 16);
            values[2 * k + 1] = __uint_as_float(words[k] & 0xffff0000);
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) {
            values[k] = widen(pack.v[k]);
        }
    }
}

// And back, each rounded to nearest even.
template <class T, int N> __device__ __forceinline__ Pack<T, N> narrow_pack(const compute_t<T> (&values)[N]) {
    Pack<T, N> pack;
#pragma unroll
    for (int k = 0; k < N; k++) {
        pack.v[k] = narrow<T>(values[k]);
    }
    return pack;
}

// The block's dynamic shared memory, 16-byte aligned.
template <class T> __device__ __forceinline__ T *shared_memory() {
#ifdef INFINIOP_CUDA_EMULATED
    return reinterpret_cast<T *>(emulator::dynamic_shared());
#else
    extern __shared__ __align__(16) unsigned char infiniop_dynamic_shared[];
    return reinterpret_cast<T *>(infiniop_dynamic_shared);
#endif
}

// ---- reductions -----------------------------------------------------------------------------------------------

constexpr unsigned all_lanes = 0xffffffffu;

struct Add {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};

// NaN, once in, stays.
struct Max {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a > b || a != a ? a : b; }
    __device__ __forceinline__ float operator()(float a, float b) const { return max_or_nan(a, b); }
};

// Every lane gets the result.
template <class T, class Op> __device__ __forceinline__ T warp_reduce(T value, Op op) {
#pragma unroll
    for (int step = warp_size / 2; step > 0; step /= 2) {
        value = op(value, __shfl_xor_sync(all_lanes, value, step));
    }
    return value;
}

// Every thread of the (one-dimensional) block gets the result; blocks are whole warps, at most 32 of them.
template <class T, class Op> __device__ __forceinline__ T block_reduce(T value, Op op, T identity) {
    __shared__ T partial[warp_size];
    const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size, warps = blockDim.x / warp_size;
    value = warp_reduce(value, op);
    if (warps == 1) {
        return value;
    }
    if (lane == 0) {
        partial[warp] = value;
    }
    __syncthreads();
    value = warp_reduce(lane < warps ? partial[lane] : identity, op);
    __syncthreads(); // before somebody writes `partial` again
    return value;
}

// ---- indices --------------------------------------------------------------------------------------------------

// n / divisor for 0 <= n < 2^31, by a product: the divisor is known on the host (1 stands for smaller ones).
struct Divisor {
    uint32_t reciprocal;
    int shift;

    Divisor() = default;
    explicit Divisor(int divisor) : shift(31) {
        const uint64_t by = divisor > 1 ? uint64_t(divisor) : 1;
        while (by > uint64_t(1) << (shift - 31)) {
            shift++;
        }
        reciprocal =
            uint32_t(((uint64_t(1) << shift) + by - 1) / by); // too large by less than 1: n of these are below 1
    }

    friend __device__ __forceinline__ int operator/(int n, const Divisor &by) {
        return int(uint64_t(uint32_t(n)) * by.reciprocal >> by.shift);
    }
};

__device__ __forceinline__ int64_t global_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t grid_threads() { return int64_t(gridDim.x) * blockDim.x; }

} // namespace infiniop::nvidia
