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

constexpr int threads = 256, at_once = 4; // units of a thread, loaded before the first is stored

template <class U> __global__ void __launch_bounds__(threads) copy_kernel(Parameters p) {
    const int64_t first = int64_t(blockIdx.x) * (at_once * threads) + threadIdx.x;
    if (first >= p.nest.count) {
        return;
    }
    int64_t offset[at_once][2];
    U units[at_once];
#pragma unroll
    for (int u = 0; u < at_once; u++) {
        const int64_t i = first + u * threads;
        p.nest.locate(i < p.nest.count ? i : first, p.nest.rank, offset[u]);
        units[u] = static_cast<const U *>(p.src)[offset[u][1]];
    }
#pragma unroll
    for (int u = 0; u < at_once; u++) {
        if (first + u * threads < p.nest.count) {
            static_cast<U *>(p.dst)[offset[u][0]] = units[u];
        }
    }
}

// A block of 32 × 8 threads moves a tile of 64 elements along b by 32 words along a.
constexpr int tile_words = 32, tile_b = 64, tile_rows = 8, least_turned = 16;

// Where block `blockIdx.x` lies: outer axes, then tiles along a, then along b.
struct Tiles {
    Divisor per_outer, along_b;
    int count, count_b; // of an outer position; of them along b
};

// The two innermost axes are [a, b]: dst is contiguous along b, src along a. A word is an element or, where strides,
// extents and addresses are even, Pairs of elements of two bytes.
template <class U, bool Pairs>
__global__ void __launch_bounds__(tile_words *tile_rows) transpose_kernel(Parameters p, Tiles tiles) {
    using Word = std::conditional_t<Pairs, uint32_t, U>;
    constexpr int per_word = Pairs ? 2 : 1;
    __shared__ Word block[tile_b][tile_words + 1]; // one more: a column lies in 32 banks
    const int a_axis = p.nest.rank - 2, b_axis = p.nest.rank - 1, x = int(threadIdx.x), y = int(threadIdx.y);
    const int tile = int(blockIdx.x), outer = tile / tiles.per_outer, t = tile - outer * tiles.count;
    const int a_tile = t / tiles.along_b, b_tile = t - a_tile * tiles.count_b;
    const int64_t a0 = int64_t(a_tile) * (tile_words * per_word), b0 = int64_t(b_tile) * tile_b;
    const int a_left = int(min(p.nest.shape[a_axis] - a0, int64_t(tile_words * per_word)));
    const int b_left = int(min(p.nest.shape[b_axis] - b0, int64_t(tile_b)));
    const int64_t a_stride = p.nest.strides[0][a_axis], b_stride = p.nest.strides[1][b_axis];
    int64_t offset[2];
    p.nest.locate(outer, a_axis, offset);
    const U *src = static_cast<const U *>(p.src) + offset[1] + a0 + (b0 + y) * b_stride + x * per_word;
    U *dst = static_cast<U *>(p.dst) + offset[0] + a0 * a_stride + b0;

    constexpr int loads = tile_b / tile_rows;
    Word words[loads];
#pragma unroll
    for (int i = 0; i < loads; i++) {
        if (x * per_word < a_left && y + i * tile_rows < b_left) {
            words[i] = *reinterpret_cast<const Word *>(src);
        }
        src += tile_rows * b_stride;
    }
#pragma unroll
    for (int i = 0; i < loads; i++) {
        const int b = y + i * tile_rows;
        block[Pairs ? b % 2 * (tile_b / 2) + b / 2 : b][x] = words[i]; // pairs: what goes into a word is 32 rows apart
    }
    __syncthreads();
    constexpr int stores = 2 * tile_words / tile_rows;
    if constexpr (Pairs) {
        dst += 2 * (y * a_stride + x);
#pragma unroll
        for (int i = 0; i < stores / 2; i++) {
            const int a = y + i * tile_rows; // a pair of rows of dst
            const uint32_t even = block[x][a], odd = block[tile_b / 2 + x][a];
            if (2 * a < a_left && 2 * x < b_left) {
                *reinterpret_cast<uint32_t *>(dst) = (even & 0xffff) | odd << 16;
                *reinterpret_cast<uint32_t *>(dst + a_stride) = even >> 16 | (odd & 0xffff0000);
            }
            dst += 2 * tile_rows * a_stride;
        }
    } else {
        dst += y / 2 * a_stride;
#pragma unroll
        for (int i = 0; i < stores; i++) {
            const int a = (y + i * tile_rows) / 2, b = y % 2 * tile_words + x; // a row of dst in two parts
            if (a < a_left && b < b_left) {
                dst[b] = block[b][a];
            }
            dst += tile_rows / 2 * a_stride;
        }
    }
}

struct State {
    Nest<2> nest; // in elements
    size_t element;

    static Status create(const Call &call, State &state, size_t &) {
        state.element = element_size(call.dtype(T::dst));
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
            if (nest.strides[1][axis] == 1 && nest.shape[axis] >= least_turned && nest.shape[last] >= least_turned) {
                std::swap(nest.shape[axis], nest.shape[last - 1]);
                for (auto &s : nest.strides) {
                    std::swap(s[axis], s[last - 1]);
                }
                nest.finish();
                return;
            }
        }
    }

    bool turned() const {
        const int last = nest.rank - 1;
        return last >= 1 && nest.strides[0][last] == 1 && nest.strides[1][last] != 1 &&
               nest.strides[1][last - 1] == 1 && nest.shape[last] >= least_turned &&
               nest.shape[last - 1] >= least_turned;
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
            p.nest.finish();
        }
        const dim3 grid(unsigned(ceil_div(p.nest.count, threads * at_once)));
        return visit_size(width, [&](auto tag) {
            return launch(copy_kernel<typename decltype(tag)::type>, grid, dim3(threads), 0, run.stream(), p);
        });
    }

    Status transpose(const Parameters &p, infinirtStream_t stream) const {
        const int64_t a = nest.shape[nest.rank - 2], b = nest.shape[nest.rank - 1];
        const bool in_pairs = element == 2 && pairs(p);
        const int64_t a_tiles = ceil_div(a, in_pairs ? 2 * tile_words : tile_words), b_tiles = ceil_div(b, tile_b);
        const int64_t count = a_tiles * b_tiles, blocks = nest.count / (a * b) * count;
        if (blocks >= int64_t(1) << 31) {
            return fail(INFINI_STATUS_NOT_IMPLEMENTED, schema::rearrange::op, "src", "fewer than 2^31 tiles to turn",
                        Text("%lld", static_cast<long long>(blocks)));
        }
        const Tiles tiles = {Divisor(int(count)), Divisor(int(b_tiles)), int(count), int(b_tiles)};
        const dim3 grid{unsigned(blocks)}, block{tile_words, tile_rows};
        if (in_pairs) {
            return launch(transpose_kernel<uint16_t, true>, grid, block, 0, stream, p, tiles);
        }
        return visit_size(element, [&](auto tag) {
            return launch(transpose_kernel<typename decltype(tag)::type, false>, grid, block, 0, stream, p, tiles);
        });
    }

    // Whether everything is even, so that two neighbours are one aligned word on both sides.
    bool pairs(const Parameters &p) const {
        const int last = nest.rank - 1;
        uint64_t all = uint64_t(nest.shape[last] | nest.shape[last - 1]);
        for (int axis = 0; axis <= last; axis++) {
            all |= axis == last ? 0 : uint64_t(nest.strides[0][axis]);
            all |= axis == last - 1 ? 0 : uint64_t(nest.strides[1][axis]);
        }
        return all % 2 == 0 && aligned_for(p.dst, 4) && aligned_for(p.src, 4);
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::rearrange::op, schema::rearrange::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
