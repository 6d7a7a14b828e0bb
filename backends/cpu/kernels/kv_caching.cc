#include "strided.h"

#include "infiniop/schema/kv_caching.h"

namespace infiniop::cpu {
namespace {

using T = schema::kv_caching::T;

// cache[b, h, past[b] + s, :] = new[b, h, s, :], all strides free.
struct State {
    size_t batch, heads, capacity, tokens, d;
    ptrdiff_t strides[4][4]; // of k_cache, v_cache, k, v
    infiniDtype_t dtype, length_dtype;

    static Status create(const Call &call, State &state, size_t &) {
        state.batch = call.dim(T::k, 0);
        state.heads = call.dim(T::k, 1);
        state.capacity = call.dim(T::k_cache, 2);
        state.tokens = call.dim(T::k, 2);
        state.d = call.dim(T::k, 3);
        for (size_t axis = 0; axis < 4; axis++) {
            for (size_t i = 0; i < 4; i++) {
                state.strides[i][axis] = call.stride(T::k_cache + i, axis);
            }
        }
        state.dtype = call.dtype(T::k_cache);
        state.length_dtype = call.dtype(T::past_kv_lengths);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        if (batch * heads * tokens * d == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        return visit_integer(length_dtype, [&](auto integer) {
            using I = typename decltype(integer)::type;
            const I *past = run.data<I>(T::past_kv_lengths);
            if (const Status status = check(past); status != INFINI_STATUS_SUCCESS) {
                return status;
            }
            if (element_size(dtype) == 2) {
                calculate_as<uint16_t>(run, past);
            } else {
                calculate_as<uint32_t>(run, past);
            }
            return INFINI_STATUS_SUCCESS;
        });
    }

    template <class I> Status check(const I *past) const {
        for (size_t b = 0; b < batch; b++) {
            if (past[b] < 0 || uint64_t(past[b]) + tokens > capacity) {
                return fail(INFINI_STATUS_BAD_PARAM, schema::kv_caching::op, "past_kv_lengths",
                            Text("lengths that leave room for %zu new tokens in %zu", tokens, capacity),
                            Text("%lld at [%zu]", (long long)past[b], b));
            }
        }
        return INFINI_STATUS_SUCCESS;
    }

    template <class X, class I> void calculate_as(const Run &run, const I *past) const {
        X *caches[2] = {run.data<X>(T::k_cache), run.data<X>(T::v_cache)};
        const X *sources[2] = {run.data<X>(T::k), run.data<X>(T::v)};
        parallel_for(batch * heads * tokens, grain_for(4 * d * sizeof(X)), [&](size_t begin, size_t end) {
            for (size_t i = begin; i < end; i++) {
                const ptrdiff_t s = ptrdiff_t(i % tokens), h = ptrdiff_t(i / tokens % heads);
                const ptrdiff_t b = ptrdiff_t(i / tokens / heads), row = ptrdiff_t(past[b]) + s;
                for (size_t side = 0; side < 2; side++) {
                    const ptrdiff_t *to = strides[side], *from = strides[2 + side];
                    copy_strided(caches[side] + b * to[0] + h * to[1] + row * to[2], to[3],
                                 sources[side] + b * from[0] + h * from[1] + s * from[2], from[3], d);
                }
            }
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::kv_caching::op, schema::kv_caching::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
