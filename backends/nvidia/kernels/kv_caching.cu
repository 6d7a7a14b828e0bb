// kv_caching: a row of threads per new token and head.
#include "../checked.h"
#include "rows.cuh"

#include "infiniop/schema/kv_caching.h"

namespace infiniop::nvidia {
namespace {

using T = schema::kv_caching::T;

// One of the two caches and its source; strides of [batch, head, token, element] in units.
struct Side {
    void *cache;
    const void *source;
    int64_t to[4], from[4];
    int64_t units;
};

struct Parameters {
    Side side;
    const void *past;
    bool past_64;
    int64_t rows, heads, snew, smax;
};

template <class U> __global__ void __launch_bounds__(1024) kv_caching_kernel(Parameters p) {
    const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= p.rows) {
        return;
    }
    const int64_t outer = row / p.snew, s = row - outer * p.snew, b = outer / p.heads, h = outer - b * p.heads;
    const int64_t past = p.past_64 ? static_cast<const int64_t *>(p.past)[b] : static_cast<const int32_t *>(p.past)[b];
    if (past < 0 || past >= p.smax - s) {
        return; // it does not fit
    }
    const Side &side = p.side;
    U *cache = static_cast<U *>(side.cache) + b * side.to[0] + h * side.to[1] + (past + s) * side.to[2];
    const U *source = static_cast<const U *>(side.source) + b * side.from[0] + h * side.from[1] + s * side.from[2];
    copy_row(cache, side.to[3], source, side.from[3], side.units);
}

struct State {
    Side sides[2]; // in elements
    size_t element;
    int64_t batch, heads, snew, smax;
    infiniDtype_t length_dtype;
    Limits limits_;

    static Side side(const Call &call, size_t cache, size_t source) {
        Side s = {};
        for (size_t axis = 0; axis < 4; axis++) {
            s.to[axis] = call.stride(cache, axis);
            s.from[axis] = call.stride(source, axis);
        }
        s.units = int64_t(call.dim(cache, 3));
        return s;
    }

    static Status create(const Call &call, State &state, size_t &) {
        state.sides[0] = side(call, T::k_cache, T::k);
        state.sides[1] = side(call, T::v_cache, T::v);
        state.element = element_size(call.dtype(T::k));
        state.batch = int64_t(call.dim(T::k, 0));
        state.heads = int64_t(call.dim(T::k, 1));
        state.snew = int64_t(call.dim(T::k, 2));
        state.smax = int64_t(call.dim(T::k_cache, 2));
        state.length_dtype = call.dtype(T::past_kv_lengths);
        state.limits_ = limits(call);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        const int64_t rows = batch * heads * snew;
        if (rows * sides[0].units == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        const void *past = run.data<void>(T::past_kv_lengths);
        if (checked()) {
            const Status status = check_values({schema::kv_caching::op, "past_kv_lengths", past, length_dtype, batch},
                                               0, smax - snew, run.stream());
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        const Parameters p = {{}, past, length_dtype == INFINI_DTYPE_I64, rows, heads, snew, smax};
        const Status status = copy(p, sides[0], run.data<void>(T::k_cache), run.data<void>(T::k), run.stream());
        return status == INFINI_STATUS_SUCCESS
                   ? copy(p, sides[1], run.data<void>(T::v_cache), run.data<void>(T::v), run.stream())
                   : status;
    }

    Status copy(Parameters p, Side side, void *cache, const void *source, infinirtStream_t stream) const {
        side.cache = cache;
        side.source = source;
        const auto bytes = [&](int64_t elements) { return elements * int64_t(element); };
        const RowShape shape = RowShape::of(side.units, element, side.to[3] == 1 && side.from[3] == 1, {cache, source},
                                            {bytes(side.to[0]), bytes(side.to[1]), bytes(side.to[2]),
                                             bytes(side.from[0]), bytes(side.from[1]), bytes(side.from[2])});
        const int64_t elements = int64_t(shape.unit / element);
        for (int axis = 0; axis < 3; axis++) {
            side.to[axis] /= elements;
            side.from[axis] /= elements;
        }
        side.units = shape.units;
        p.side = side;
        const dim3 block = shape.block(limits_);
        return visit_size(shape.unit, [&](auto tag) {
            return launch(kv_caching_kernel<typename decltype(tag)::type>, row_grid(p.rows, block), block, 0, stream,
                          p);
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::kv_caching::op, schema::kv_caching::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
