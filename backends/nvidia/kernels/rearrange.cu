// rearrange: units as wide as both layouts allow; a layout that turns its innermost axis goes through shared memory.
#include "../device.cuh"
#include "../layout.h"

#include "infiniop/schema/rearrange.h"

namespace infiniop::nvidia {
namespace {

using T = schema::rearrange::T;

struct Parameters {
    Nest<2> nest; // dst, src
    void *dst;
    const void *src;
};

template <class U> __global__ void __launch_bounds__(256) copy_kernel(Parameters p) {
    for (int64_t i = global_thread(); i < p.nest.count; i += grid_threads()) {
        int64_t offset[2];
        p.nest.locate(i, p.nest.rank, offset);
        static_cast<U *>(p.dst)[offset[0]] = static_cast<const U *>(p.src)[offset[1]];
    }
}

constexpr int tile = 32, tile_rows = 8; // a block of 32 × 8 threads moves a tile of 32 × 32

// The two innermost axes are [a, b]: dst is contiguous along b, src along a.
template <class U>
__global__ void __launch_bounds__(tile *tile_rows) transpose_kernel(Parameters p, int64_t a_tiles, int64_t b_tiles) {
    __shared__ U block[tile][tile + 1]; // one more: a column lies in 32 banks
    const int a_axis = p.nest.rank - 2, b_axis = p.nest.rank - 1;
    const int64_t a_extent = p.nest.shape[a_axis], b_extent = p.nest.shape[b_axis];
    const int64_t tiles = a_tiles * b_tiles, outer = int64_t(blockIdx.x) / tiles,
                  t = int64_t(blockIdx.x) - outer * tiles;
    const int64_t a0 = t / b_tiles * tile, b0 = t % b_tiles * tile;
    int64_t offset[2];
    p.nest.locate(outer, a_axis, offset);
    const U *src = static_cast<const U *>(p.src) + offset[1];
    U *dst = static_cast<U *>(p.dst) + offset[0];
    for (int r = threadIdx.y; r < tile; r += tile_rows) {
        const int64_t a = a0 + threadIdx.x, b = b0 + r;
        if (a < a_extent && b < b_extent) {
            block[r][threadIdx.x] = src[a + b * p.nest.strides[1][b_axis]];
        }
    }
    __syncthreads();
    for (int r = threadIdx.y; r < tile; r += tile_rows) {
        const int64_t a = a0 + r, b = b0 + threadIdx.x;
        if (a < a_extent && b < b_extent) {
            dst[a * p.nest.strides[0][a_axis] + b] = block[threadIdx.x][r];
        }
    }
}

struct State {
    Nest<2> nest; // in elements
    size_t element;
    Limits limits_;

    static Status create(const Call &call, State &state, size_t &) {
        state.element = element_size(call.dtype(T::dst));
        state.limits_ = limits(call);
        const Status status = nest_of<2>(call, {T::dst, T::src}, state.nest);
        if (status == INFINI_STATUS_SUCCESS) {
            state.turn();
        }
        return status;
    }

    // Where src is contiguous along another axis than dst, that axis becomes the second innermost.
    void turn() {
        const int last = nest.rank - 1;
        if (last < 1 || nest.strides[0][last] != 1 || nest.strides[1][last] == 1) {
            return;
        }
        for (int axis = 0; axis < last; axis++) {
            if (nest.strides[1][axis] == 1 && nest.shape[axis] >= tile / 2 && nest.shape[last] >= tile / 2) {
                std::swap(nest.shape[axis], nest.shape[last - 1]);
                for (auto &s : nest.strides) {
                    std::swap(s[axis], s[last - 1]);
                }
                return;
            }
        }
    }

    bool turned() const {
        const int last = nest.rank - 1;
        return last >= 1 && nest.strides[0][last] == 1 && nest.strides[1][last] != 1 &&
               nest.strides[1][last - 1] == 1 && nest.shape[last] >= tile / 2 && nest.shape[last - 1] >= tile / 2;
    }

    // Bytes of the widest unit along the innermost axis.
    size_t unit(const Parameters &p) const {
        const int last = nest.rank - 1;
        if (last < 0 || nest.strides[0][last] != 1 || nest.strides[1][last] != 1) {
            return element;
        }
        uint64_t all = uint64_t(nest.shape[last]);
        for (const auto &s : nest.strides) {
            for (int axis = 0; axis < last; axis++) {
                all |= uint64_t(s[axis]);
            }
        }
        all = all * element | reinterpret_cast<uintptr_t>(p.dst) | reinterpret_cast<uintptr_t>(p.src) | access_bytes;
        return std::max<size_t>(element, size_t(all & -all));
    }

    Status calculate(const Run &run) const {
        if (nest.count == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        Parameters p = {nest, run.data<void>(T::dst), run.data<void>(T::src)};
        if (turned()) {
            return transpose(p, run.stream());
        }
        const size_t width = unit(p);
        const int64_t elements = int64_t(width / element);
        if (elements > 1) {
            const int last = nest.rank - 1;
            p.nest.count /= elements;
            p.nest.shape[last] /= elements;
            for (auto &s : p.nest.strides) {
                for (int axis = 0; axis < last; axis++) {
                    s[axis] /= elements;
                }
            }
        }
        const Plan plan = plan_items(limits_, p.nest.count);
        return visit_size(width, [&](auto tag) {
            return launch(copy_kernel<typename decltype(tag)::type>, dim3(unsigned(plan.blocks)),
                          dim3(unsigned(plan.threads)), 0, run.stream(), p);
        });
    }

    Status transpose(const Parameters &p, infinirtStream_t stream) const {
        const int64_t a = nest.shape[nest.rank - 2], b = nest.shape[nest.rank - 1];
        const int64_t a_tiles = ceil_div(a, tile), b_tiles = ceil_div(b, tile);
        const int64_t blocks = nest.count / (a * b) * a_tiles * b_tiles;
        return visit_size(element, [&](auto tag) {
            return launch(transpose_kernel<typename decltype(tag)::type>, dim3(unsigned(blocks)), dim3(tile, tile_rows),
                          0, stream, p, a_tiles, b_tiles);
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::rearrange::op, schema::rearrange::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
