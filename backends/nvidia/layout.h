// Strided tensors of one shape: axes of extent 1 dropped, ordered and merged on the host, walked on the device.
#pragma once

#include "device.cuh"
#include "nvidia.h"

#include <algorithm>
#include <array>

namespace infiniop::nvidia {

constexpr int max_rank = 32; // axes that remain: tensors of 2^32 elements have no more that cannot be merged

// Positions of N operands; strides in elements, offsets with 64 bits.
template <int N> struct Nest {
    int rank;
    bool small; // fewer than 2^31 positions: `divisors`, by the extents, hold
    Divisor divisors[max_rank];
    int64_t count;
    int64_t shape[max_rank]; // the innermost axis is the last one
    int64_t strides[N][max_rank];

    // Offsets of position i (row-major) over the outermost `axes` axes.
    __device__ __forceinline__ void locate(int64_t i, int axes, int64_t (&offset)[N]) const {
#pragma unroll
        for (int k = 0; k < N; k++) {
            offset[k] = 0;
        }
        if (small) {
            walk(uint32_t(i), axes, offset,
                 [this](uint32_t at, int axis) { return uint32_t(int(at) / divisors[axis]); });
        } else {
            walk(uint64_t(i), axes, offset, [this](uint64_t at, int axis) { return at / uint64_t(shape[axis]); });
        }
    }

    // ---- on the host

    bool add_axis(size_t extent, const std::array<int64_t, N> &axis) {
        count *= int64_t(extent);
        if (extent == 1 || count == 0) {
            return true;
        }
        if (rank == max_rank) {
            merge();
        }
        if (rank == max_rank) {
            return false;
        }
        shape[rank] = int64_t(extent);
        for (int k = 0; k < N; k++) {
            strides[k][rank] = axis[size_t(k)];
        }
        rank++;
        return true;
    }

    // Orders the axes by the first operand's strides, then by the second's …
    void sort() {
        for (int i = 1; i < rank; i++) {
            for (int j = i; j > 0 && outside(j, j - 1); j--) {
                std::swap(shape[j], shape[j - 1]);
                for (auto &s : strides) {
                    std::swap(s[j], s[j - 1]);
                }
            }
        }
    }

    // Merges neighbours where every operand allows it.
    void merge() {
        int kept = 0;
        for (int axis = 1; axis < rank; axis++) {
            if (mergeable(kept, axis)) {
                shape[kept] *= shape[axis];
            } else {
                shape[++kept] = shape[axis];
            }
            for (auto &s : strides) {
                s[kept] = s[axis];
            }
        }
        rank = rank ? kept + 1 : 0;
    }

    // Once the axes are what they shall be.
    void finish() {
        small = count < int64_t(1) << 31;
        for (int axis = 1; axis < rank && small; axis++) {
            divisors[axis] = Divisor(int(shape[axis]));
        }
    }

private:
    template <class Index, class Divide>
    __device__ __forceinline__ void walk(Index i, int axes, int64_t (&offset)[N], Divide &&divide) const {
#pragma unroll 1
        for (int axis = axes - 1; axis >= 0; axis--) {
            Index index = i; // the outermost axis takes what is left
            if (axis > 0) {
                i = divide(index, axis);
                index -= i * Index(shape[axis]);
            }
#pragma unroll
            for (int k = 0; k < N; k++) {
                offset[k] += int64_t(index) * strides[k][axis];
            }
        }
    }

    bool outside(int a, int b) const {
        for (const auto &s : strides) {
            const int64_t x = std::abs(s[a]), y = std::abs(s[b]);
            if (x != y) {
                return x > y;
            }
        }
        return false;
    }

    bool mergeable(int outer, int inner) const {
        for (const auto &s : strides) {
            if (s[outer] != s[inner] * shape[inner]) {
                return false;
            }
        }
        return true;
    }
};

inline Status too_many_axes(const Call &call) {
    return fail(INFINI_STATUS_NOT_IMPLEMENTED, call.op(), nullptr, "at most 32 axes that cannot be merged", "more");
}

// The nest of tensors over the axes [first, last) of the first one, leaving out axis `skip`; in the tensors' own order
// unless `sorted`.
template <int N>
Status nest_of(const Call &call, const std::array<size_t, size_t(N)> &tensors, Nest<N> &nest, size_t first, size_t last,
               bool sorted, size_t skip = SIZE_MAX) {
    nest = {};
    nest.count = 1;
    for (size_t axis = first; axis < last; axis++) {
        if (axis == skip) {
            continue;
        }
        std::array<int64_t, size_t(N)> strides;
        for (size_t k = 0; k < size_t(N); k++) {
            strides[k] = call.stride(tensors[k], axis);
        }
        if (!nest.add_axis(call.dim(tensors[0], axis), strides)) {
            return too_many_axes(call);
        }
    }
    if (sorted) {
        nest.sort();
    }
    nest.merge();
    nest.finish();
    return INFINI_STATUS_SUCCESS;
}

// Whole tensors, in the order that suits the first.
template <int N> Status nest_of(const Call &call, const std::array<size_t, size_t(N)> &tensors, Nest<N> &nest) {
    return nest_of<N>(call, tensors, nest, 0, call.rank(tensors[0]), true);
}

} // namespace infiniop::nvidia
