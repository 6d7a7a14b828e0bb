#include <algorithm>

#include "strided.h"

#include "infiniop/schema/rearrange.h"

namespace infiniop::cpu {
namespace {

using T = schema::rearrange::T;

struct Wide {
    uint64_t low, high;
};

// Elements of a transposed square on each side, and how many squares lie side by side in src before dst moves on: both
// keep the pages in use few.
template <class X> constexpr size_t tile = sizeof(X) >= 8 ? 32 : 64;
constexpr size_t squares_in_a_row = 4;

struct State {
    Nest<2> nest;             // ordered by dst's strides
    size_t size;              // of an element
    size_t across = SIZE_MAX; // for a transpose: the axis on which src is contiguous, and dst is not

    static Status create(const Call &call, State &state, size_t &) {
        state.size = element_size(call.dtype(T::dst));
        const Status status = Nest<2>::of(call, {T::dst, T::src}, state.nest);
        const Nest<2> &nest = state.nest;
        if (status == INFINI_STATUS_SUCCESS && nest.inner_stride(0) == 1 && nest.inner_stride(1) != 1) {
            for (size_t axis = 0; axis + 1 < nest.rank; axis++) {
                if (nest.strides[1][axis] == 1) {
                    state.across = axis;
                }
            }
        }
        return status;
    }

    Status calculate(const Run &run) const {
        switch (size) {
        case 1:
            return calculate_as<uint8_t>(run);
        case 2:
            return calculate_as<uint16_t>(run);
        case 4:
            return calculate_as<uint32_t>(run);
        case 8:
            return calculate_as<uint64_t>(run);
        default:
            return calculate_as<Wide>(run);
        }
    }

    template <class X> Status calculate_as(const Run &run) const {
        X *dst = run.data<X>(T::dst);
        const X *src = run.data<X>(T::src);
        if (nest.count == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        if (across != SIZE_MAX) {
            transpose(dst, src);
            return INFINI_STATUS_SUCCESS;
        }
        const ptrdiff_t to = nest.inner_stride(0), from = nest.inner_stride(1);
        if (to == 1 && from == 1 && nest.rank > 1) {
            copy_runs(dst, src);
            return INFINI_STATUS_SUCCESS;
        }
        parallel_pieces(nest, 2 * sizeof(X), [&](const ptrdiff_t *offset, size_t n) {
            copy_strided(dst + offset[0], to, src + offset[1], from, n);
        });
        return INFINI_STATUS_SUCCESS;
    }

    // The innermost axis is contiguous on both sides.
    template <class X> void copy_runs(X *dst, const X *src) const {
        const size_t axis = nest.rank - 2, rows = nest.shape[axis], bytes = nest.inner() * sizeof(X);
        const ptrdiff_t size = sizeof(X), to = nest.strides[0][axis] * size, from = nest.strides[1][axis] * size;
        parallel_for(nest.count / nest.inner(), grain_for(2 * bytes), [&](size_t begin, size_t end) {
            Odometer<2> plane(nest, axis, begin / rows);
            for (size_t row = begin % rows; begin < end; row = 0, plane.next()) {
                const size_t n = std::min(end - begin, rows - row);
                copy_rows(reinterpret_cast<char *>(dst + plane.offset[0]) + ptrdiff_t(row) * to, to,
                          reinterpret_cast<const char *>(src + plane.offset[1]) + ptrdiff_t(row) * from, from, n,
                          bytes);
                begin += n;
            }
        });
    }

    // Squares of the plane that the innermost axis and `across` span; the other axes are walked around it.
    template <class X> void transpose(X *dst, const X *src) const {
        Nest<2> plane = nest;
        const size_t columns = nest.inner(), rows = nest.shape[across], side = tile<X>;
        const ptrdiff_t to = nest.strides[0][across], from = nest.inner_stride(1);
        plane.rank--; // the innermost axis
        for (size_t axis = across; axis + 1 < plane.rank; axis++) {
            plane.shape[axis] = plane.shape[axis + 1];
            plane.strides[0][axis] = plane.strides[0][axis + 1];
            plane.strides[1][axis] = plane.strides[1][axis + 1];
        }
        plane.rank--;
        const size_t across_tiles = (rows + side - 1) / side, down_tiles = (columns + side - 1) / side;
        const size_t tiles = across_tiles * down_tiles;
        const size_t planes = nest.count / (rows * columns);
        parallel_for(planes * tiles, grain_for(side * side * sizeof(X)), [&](size_t begin, size_t end) {
            for (size_t i = begin; i < end; i++) {
                const Odometer<2> corner(plane, plane.rank, i / tiles);
                const size_t group = i % tiles / (squares_in_a_row * down_tiles) * squares_in_a_row;
                const size_t in_group = i % tiles - group * down_tiles;
                const size_t width = std::min(squares_in_a_row, across_tiles - group);
                const size_t row = (group + in_group % width) * side, column = in_group / width * side;
                square(dst + corner.offset[0] + ptrdiff_t(row) * to + ptrdiff_t(column), to,
                       src + corner.offset[1] + ptrdiff_t(row) + ptrdiff_t(column) * from, from,
                       std::min(rows - row, side), std::min(columns - column, side));
            }
        });
    }

    // dst[r·to + c] = src[r + c·from], through a packed copy so that both sides are walked along their rows.
    template <class X>
    static void square(X *dst, ptrdiff_t to, const X *src, ptrdiff_t from, size_t rows, size_t columns) {
        X packed[tile<X>][tile<X>];
        for (size_t c = 0; c < columns; c++) {
            std::memcpy(packed[c], src + ptrdiff_t(c) * from, rows * sizeof(X));
        }
        for (size_t r = 0; r < rows; r++) {
            X *row = dst + ptrdiff_t(r) * to;
            for (size_t c = 0; c < columns; c++) {
                row[c] = packed[c][r];
            }
        }
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::rearrange::op, schema::rearrange::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
