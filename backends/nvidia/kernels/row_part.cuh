// A row's elements, L at a time, divided among the threads of its block or warp: chunks of `Packs` packs per thread,
// all of which are loaded before the first is used. The first chunk, mostly the whole row, stays in registers.
#pragma once

#include "../device.cuh"
#include "../layout.h"

namespace infiniop::nvidia {

constexpr int row_threads = 512; // at most: a thread has 128 registers then
constexpr int row_packs = 4;

template <int L> struct RowPart {
    int64_t width;

    __device__ __forceinline__ int64_t chunk() const { return int64_t(blockDim.x * row_packs * L); }

    // This thread's packs of the chunk that begins with element `start`. In place of what is beyond the row its first
    // pack is loaded, so that no load hangs on a condition. A lane that has none loads another's, before that is
    // overwritten.
    template <class T>
    __device__ __forceinline__ void load(const T *row, int64_t start, Pack<T, L> (&packs)[row_packs]) const {
        const int own = min(first(0), left(0) - L), end = left(start);
#pragma unroll
        for (int j = 0; j < row_packs; j++) {
            packs[j] = load_pack<L>(row + (first(j) < end ? start + first(j) : own));
        }
        __syncwarp();
    }

    // f(number of the pack, its first element) for those of these packs that the row has.
    template <class F> __device__ __forceinline__ void each(int64_t start, F &&f) const {
        const int end = left(start);
#pragma unroll
        for (int j = 0; j < row_packs; j++) {
            if (first(j) < end) {
                f(j, start + first(j));
            }
        }
    }

private:
    __device__ __forceinline__ int left(int64_t start) const { return int(min(width - start, chunk())); }
    __device__ __forceinline__ int first(int j) const { return int(threadIdx.x + unsigned(j) * blockDim.x) * L; }
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
template <class P> Status launch_rows(void (*kernel)(P), const P &p, int lanes, infinirtStream_t stream) {
    const unsigned threads = unsigned(plan_row_threads(p.width, row_packs * lanes, row_threads));
    const unsigned rows = threads == warp_size ? 4 : 1;
    return launch(kernel, dim3(unsigned(ceil_div(p.rows.count, rows))), dim3(threads, rows), 0, stream, p);
}

} // namespace infiniop::nvidia
