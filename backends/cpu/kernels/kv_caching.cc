#include <algorithm>

#include "strided.h"

#include "infiniop/schema/kv_caching.h"

namespace infiniop::cpu {
namespace {

using T = schema::kv_caching::T;

struct Strides {
    ptrdiff_t axis[4];

    ptrdiff_t at(size_t b, size_t h, size_t s) const {
        return ptrdiff_t(b) * axis[0] + ptrdiff_t(h) * axis[1] + ptrdiff_t(s) * axis[2];
    }
};

// cache[b, h, past[b] + s, :] = new[b, h, s, :], all strides free.
struct State {
    size_t batch, heads, capacity, tokens, d;
    Strides strides[4]; // of k_cache, v_cache, k, v
    infiniDtype_t dtype, length_dtype;

    static Status create(const Call &call, State &state, size_t &) {
        state.batch = call.dim(T::k, 0);
        state.heads = call.dim(T::k, 1);
        state.capacity = call.dim(T::k_cache, 2);
        state.tokens = call.dim(T::k, 2);
        state.d = call.dim(T::k, 3);
        for (size_t axis = 0; axis < 4; axis++) {
            for (size_t i = 0; i < 4; i++) {
                state.strides[i].axis[axis] = call.stride(T::k_cache + i, axis);
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
            for (size_t i = begin; i < end;) {
                const size_t s = i % tokens, h = i / tokens % heads, b = i / tokens / heads;
                const size_t n = std::min(tokens - s, end - i); // tokens of one head
                for (size_t side = 0; side < 2; side++) {
                    const Strides &to = strides[side], &from = strides[2 + side];
                    copy(caches[side] + to.at(b, h, size_t(past[b]) + s), to, sources[side] + from.at(b, h, s), from,
                         n);
                }
                i += n;
            }
        });
    }

    template <class X> void copy(X *dst, const Strides &to, const X *src, const Strides &from, size_t n) const {
        constexpr ptrdiff_t size = sizeof(X);
        if (d == 1 || (to.axis[3] == 1 && from.axis[3] == 1)) {
            copy_rows(reinterpret_cast<char *>(dst), to.axis[2] * size, reinterpret_cast<const char *>(src),
                      from.axis[2] * size, n, d * sizeof(X));
            return;
        }
        for (size_t i = 0; i < n; i++) {
            copy_strided(dst + ptrdiff_t(i) * to.axis[2], to.axis[3], src + ptrdiff_t(i) * from.axis[2], from.axis[3],
                         d);
        }
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::kv_caching::op, schema::kv_caching::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
