// A row's elements, L at a time, divided among the threads of its block or warp. The first KEPT packs of a thread stay
// in its registers; what lies beyond them is read again.
#pragma once

#include "../device.cuh"
#include "../layout.h"

namespace infiniop::nvidia {

template <int L, int KEPT> struct RowPart {
    int64_t start, stride, width;

    __device__ __forceinline__ explicit RowPart(int64_t width_)
        : start(int64_t(threadIdx.x) * L), stride(int64_t(blockDim.x) * L), width(width_) {}

    // f(number of the pack, its first element)
    template <class F> __device__ __forceinline__ void kept(F &&f) const {
#pragma unroll
        for (int j = 0; j < KEPT; j++) {
            const int64_t i = start + j * stride;
            if (i < width) {
                f(j, i);
            }
        }
    }

    // f(first element of a pack)
    template <class F> __device__ __forceinline__ void beyond(F &&f) const {
        for (int64_t i = start + KEPT * stride; i < width; i += stride) {
            f(i);
        }
    }

    __device__ __forceinline__ bool is_kept() const { return KEPT * stride >= width; }
};

// Whether rows of `width` elements can be read L at a time, but for their addresses.
template <int N> bool rows_in_packs(const Nest<N> &rows, int64_t width, int64_t lanes) {
    bool good = width % lanes == 0;
    for (const auto &s : rows.strides) {
        for (int axis = 0; axis < rows.rank; axis++) {
            good &= s[axis] % lanes == 0;
        }
    }
    return good;
}

// A warp for a short row, four of them in a block; a block for a long one.
template <int L, class P> Status launch_rows(void (*kernel)(P), const P &p, infinirtStream_t stream) {
    const unsigned threads = unsigned(plan_row_threads(p.width, 2 * L, 1024)), rows = threads == warp_size ? 4 : 1;
    return launch(kernel, dim3(unsigned(ceil_div(p.rows.count, rows))), dim3(threads, rows), 0, stream, p);
}

} // namespace infiniop::nvidia
