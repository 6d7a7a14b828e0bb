// Tensor-core and asynchronous-copy instructions behind functions: PTX on the device, the same arithmetic lane by lane
// in the emulator. Fragments are those of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"): lane 4 g + t
// holds of A the rows g and g + 8, of B the column g, of C the rows g and g + 8 and the columns 2 t and 2 t + 1.
#pragma once

#include "../device.cuh"

namespace infiniop::nvidia {

// Two values, rounded to T, the first in the low half.
template <class T> __device__ __forceinline__ uint32_t pack2(float low, float high);
// Sums of pairs of T.
template <class T> __device__ __forceinline__ uint32_t add2(uint32_t a, uint32_t b);
// 16 bytes that nobody reads again soon.
__device__ __forceinline__ uint4 load_once_16(const void *p);
// c += a b, T: f16 or bf16
template <class T>
__device__ __forceinline__ void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
// Four 8 x 8 matrices of 2-byte elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row);
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&r)[4], const void *row);
// 16 bytes from global to shared memory, zeros where not valid (then `from` is not read).
__device__ __forceinline__ void copy_async_16(void *shared, const void *from, bool valid);
__device__ __forceinline__ void copy_async_commit();
// Until all but the newest N commits of this thread have arrived.
template <int N> __device__ __forceinline__ void copy_async_wait();

#ifndef INFINIOP_CUDA_EMULATED

template <> __device__ __forceinline__ uint32_t pack2<f16>(float low, float high) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

template <> __device__ __forceinline__ uint32_t pack2<bf16>(float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

template <> __device__ __forceinline__ uint32_t add2<f16>(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

// A sum instruction came with sm_90; a fused one with factor 1 rounds alike.
template <> __device__ __forceinline__ uint32_t add2<bf16>(uint32_t a, uint32_t b) {
    uint32_t r;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(0x3f803f80u), "r"(b));
    return r;
}

__device__ __forceinline__ uint4 load_once_16(const void *p) {
    uint4 r;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
                 : "l"(p));
    return r;
}

template <>
__device__ __forceinline__ void mma16816<f16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma16816<bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t shared_address(const void *p) { return uint32_t(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void copy_async_16(void *shared, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N> __device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#else

template <class T> __device__ __forceinline__ uint32_t pack2(float low, float high) {
    const T pair[2] = {from_float<T>(low), from_float<T>(high)};
    uint32_t r;
    memcpy(&r, pair, 4);
    return r;
}

template <class T> __device__ __forceinline__ uint32_t add2(uint32_t a, uint32_t b) {
    T x[2], y[2];
    memcpy(x, &a, 4);
    memcpy(y, &b, 4);
    return pack2<T>(to_float(x[0]) + to_float(y[0]), to_float(x[1]) + to_float(y[1]));
}

__device__ __forceinline__ uint4 load_once_16(const void *p) { return *static_cast<const uint4 *>(p); }

namespace detail {
// Element i of packed pairs.
template <class T> float element(const uint32_t *pairs, int i) {
    T value;
    memcpy(&value, reinterpret_cast<const char *>(pairs) + 2 * i, 2);
    return to_float(value);
}

inline void load_matrices(uint32_t (&r)[4], const void *row, bool transposed) {
    const void *rows[32];
    warp_exchange(&row, sizeof(row), rows);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int m = 0; m < 4; m++) {
        uint16_t pair[2];
        for (int i = 0; i < 2; i++) {
            const int from = transposed ? 2 * t + i : g, at = transposed ? g : 2 * t + i;
            pair[i] = static_cast<const uint16_t *>(rows[8 * m + from])[at];
        }
        memcpy(&r[m], pair, 4);
    }
}
} // namespace detail

template <class T>
__device__ __forceinline__ void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    struct Operands {
        uint32_t a[4], b[2];
    };
    const Operands mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    Operands all[32];
    warp_exchange(&mine, sizeof(mine), all);
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        const int high = i / 2, column = 2 * t + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++) {
            const int pair = k % 8 / 2, half = k / 8;
            sum += detail::element<T>(&all[4 * g + pair].a[2 * half + high], k % 2) *
                   detail::element<T>(&all[4 * column + pair].b[half], k % 2);
        }
        c[i] += sum;
    }
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *row) { detail::load_matrices(r, row, false); }
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&r)[4], const void *row) {
    detail::load_matrices(r, row, true);
}

__device__ __forceinline__ void copy_async_16(void *shared, const void *from, bool valid) {
    emulator::copy_async_16(shared, from, valid);
}
__device__ __forceinline__ void copy_async_commit() { emulator::copy_async_commit(); }
template <int N> __device__ __forceinline__ void copy_async_wait() { emulator::copy_async_wait(N); }

#endif

} // namespace infiniop::nvidia
