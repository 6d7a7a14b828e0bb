// paged_caching: a row of threads per token copies all heads of its key and its value. What is copied is under way
// before the slot that it goes to is known.
#include "../checked.h"
#include "rows.cuh"

#include "infiniop/schema/paged_caching.h"

namespace infiniop::nvidia {
namespace {

using T = schema::paged_caching::T;

// One of the two caches and its source; strides in units.
struct Side {
    void *cache;
    const void *source;
    int64_t block, cache_head, row; // of the cache
    int64_t token, source_head;     // of the source
    int64_t units;                  // of one head of one token
    Divisor by_units;
    int all; // units of all heads
};

struct Parameters {
    Side sides[2];
    const int64_t *slots;
    int64_t ntok, nslots, block_size;
};

template <class U> __global__ void __launch_bounds__(1024) paged_caching_kernel(Parameters p) {
    const int64_t n = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (n >= p.ntok) {
        return;
    }
    const int64_t slot = p.slots[n];
    for (int i = int(threadIdx.x); i < max(p.sides[0].all, p.sides[1].all); i += int(blockDim.x)) {
        U units[2];
        int64_t to[2]; // from the token's row of the cache
#pragma unroll
        for (int s = 0; s < 2; s++) {
            const Side &side = p.sides[s];
            const int head = i / side.by_units;
            const int64_t u = i - head * side.units;
            to[s] = head * side.cache_head + u;
            if (i < side.all) {
                units[s] = static_cast<const U *>(side.source)[n * side.token + head * side.source_head + u];
            }
        }
        if (slot < 0 || slot >= p.nslots) {
            return; // padding, or what must not be written
        }
        const int64_t block = slot / p.block_size, row = slot - block * p.block_size;
#pragma unroll
        for (int s = 0; s < 2; s++) {
            const Side &side = p.sides[s];
            if (i < side.all) {
                static_cast<U *>(side.cache)[block * side.block + row * side.row + to[s]] = units[s];
            }
        }
    }
}

struct State {
    Side sides[2]; // strides in elements, units: elements
    size_t element;
    int64_t ntok, heads, nblocks, block_size;
    Limits limits_;

    static Side side(const Call &call, size_t cache, size_t source) {
        Side side = {};
        side.block = call.stride(cache, 0);
        side.cache_head = call.stride(cache, 1);
        side.row = call.stride(cache, 2);
        side.token = call.stride(source, 0);
        side.source_head = call.stride(source, 1);
        side.units = int64_t(call.dim(cache, 3));
        return side;
    }

    static Status create(const Call &call, State &state, size_t &) {
        state.sides[0] = side(call, T::k_cache, T::k);
        state.sides[1] = side(call, T::v_cache, T::v);
        state.element = element_size(call.dtype(T::k));
        state.ntok = int64_t(call.dim(T::k, 0));
        state.heads = int64_t(call.dim(T::k, 1));
        state.nblocks = int64_t(call.dim(T::k_cache, 0));
        state.block_size = int64_t(call.dim(T::k_cache, 2));
        state.limits_ = limits(call);
        const int64_t most = state.heads * std::max(state.sides[0].units, state.sides[1].units);
        return most < int64_t(1) << 31
                   ? INFINI_STATUS_SUCCESS
                   : fail(INFINI_STATUS_NOT_IMPLEMENTED, call.op(), "k", "tokens of fewer than 2^31 elements",
                          Text("%lld", static_cast<long long>(most)));
    }

    // The widest unit for both sides.
    size_t unit(const Side (&with_data)[2]) const {
        size_t unit = access_bytes;
        for (const Side &s : with_data) {
            const auto bytes = [&](int64_t elements) { return elements * int64_t(element); };
            if (s.units > 0) {
                unit = std::min(unit, RowShape::of(s.units, element, true, {s.cache, s.source},
                                                   {bytes(s.block), bytes(s.cache_head), bytes(s.row), bytes(s.token),
                                                    bytes(s.source_head)})
                                          .unit);
            }
        }
        return unit;
    }

    Status calculate(const Run &run) const {
        const int64_t nslots = nblocks * block_size, *slots = run.data<int64_t>(T::slot_mapping);
        if (ntok == 0 || nslots == 0 || heads == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        if (checked()) {
            const Status status =
                check_values({schema::paged_caching::op, "slot_mapping", slots, INFINI_DTYPE_I64, ntok}, INT64_MIN,
                             nslots - 1, run.stream());
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        Parameters p = {{sides[0], sides[1]}, slots, ntok, nslots, block_size};
        p.sides[0].cache = run.data<void>(T::k_cache);
        p.sides[0].source = run.data<void>(T::k);
        p.sides[1].cache = run.data<void>(T::v_cache);
        p.sides[1].source = run.data<void>(T::v);
        const size_t width = unit(p.sides);
        const int64_t elements = int64_t(width / element);
        for (Side &s : p.sides) {
            for (int64_t *stride : {&s.block, &s.cache_head, &s.row, &s.token, &s.source_head, &s.units}) {
                *stride /= elements;
            }
            s.by_units = Divisor(int(s.units));
            s.all = int(heads * s.units);
        }
        const RowShape shape = {width, heads * std::max(p.sides[0].units, p.sides[1].units)};
        const dim3 block = shape.block(limits_);
        return visit_size(width, [&](auto tag) {
            return launch(paged_caching_kernel<typename decltype(tag)::type>, row_grid(ntok, block), block, 0,
                          run.stream(), p);
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::paged_caching::op, schema::paged_caching::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
