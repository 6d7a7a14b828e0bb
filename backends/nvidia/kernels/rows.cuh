// Copying rows bit by bit: a row is a number of units (1 to 16 bytes), a few threads copy it.
#pragma once

#include "../device.cuh"
#include "../nvidia.h"

#include <initializer_list>

namespace infiniop::nvidia {

// Copies a row; the threads of one threadIdx.y share it. Strides in units.
template <class U>
__device__ __forceinline__ void copy_row(U *dst, int64_t to, const U *src, int64_t from, int64_t units) {
    for (int64_t u = threadIdx.x; u < units; u += blockDim.x) {
        dst[u * to] = src[u * from];
    }
}

// How the rows of one launch are cut.
struct RowShape {
    size_t unit;   // bytes
    int64_t units; // per row

    // The widest unit that divides everything: row bytes, addresses and strides (bytes, between rows). Rows whose
    // elements are apart go element by element.
    static RowShape of(int64_t width, size_t element, bool together, std::initializer_list<const void *> addresses,
                       std::initializer_list<int64_t> strides) {
        if (!together) {
            return {element, width};
        }
        uint64_t all = uint64_t(width) * element | access_bytes;
        for (const void *p : addresses) {
            all |= reinterpret_cast<uintptr_t>(p);
        }
        for (const int64_t s : strides) {
            all |= uint64_t(s);
        }
        const size_t unit = std::max<size_t>(element, size_t(all & -all));
        return {unit, int64_t(uint64_t(width) * element / unit)};
    }

    // Threads along a row, rows in a block: whole warps, about 256 threads, more only where a row is long.
    dim3 block(const Limits &limits) const {
        unsigned x = 1;
        const unsigned most = unsigned(block_limit(limits));
        while (x < most && int64_t(x) < units) {
            x *= 2;
        }
        return dim3(x, x < 256 ? 256 / x : 1);
    }
};

// Blocks for so many rows.
inline dim3 row_grid(int64_t rows, dim3 block) { return dim3(unsigned(ceil_div(rows, block.y))); }

} // namespace infiniop::nvidia
