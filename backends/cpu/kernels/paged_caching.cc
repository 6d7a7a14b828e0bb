#include "strided.h"

#include "infiniop/schema/paged_caching.h"

namespace infiniop::cpu {
namespace {

using T = schema::paged_caching::T;

// One of the two caches and its source, strides in bytes.
struct Side {
    ptrdiff_t block, cache_head, row; // of the cache
    ptrdiff_t token, source_head;     // of the source
    size_t bytes;                     // of one head of one token

    static Side of(const Call &call, size_t cache, size_t source) {
        const ptrdiff_t size = ptrdiff_t(element_size(call.dtype(cache)));
        return {call.stride(cache, 0) * size,  call.stride(cache, 1) * size,  call.stride(cache, 2) * size,
                call.stride(source, 0) * size, call.stride(source, 1) * size, call.dim(cache, 3) * size_t(size)};
    }

    void copy(char *cache, const char *source, size_t heads, ptrdiff_t n, ptrdiff_t in_block, ptrdiff_t which) const {
        if (bytes == 0) {
            return;
        }
        copy_rows(cache + which * block + in_block * row, cache_head, source + n * token, source_head, heads, bytes);
    }
};

struct State {
    Side k, v;
    size_t ntok, heads, nblocks, block_size;

    static Status create(const Call &call, State &state, size_t &) {
        state.k = Side::of(call, T::k_cache, T::k);
        state.v = Side::of(call, T::v_cache, T::v);
        state.ntok = call.dim(T::k, 0);
        state.heads = call.dim(T::k, 1);
        state.nblocks = call.dim(T::k_cache, 0);
        state.block_size = call.dim(T::k_cache, 2);
        return INFINI_STATUS_SUCCESS;
    }

    Status check(const int64_t *slots) const {
        const int64_t nslots = int64_t(nblocks * block_size);
        for (size_t n = 0; n < ntok; n++) {
            if (slots[n] >= nslots) {
                return fail(INFINI_STATUS_BAD_PARAM, schema::paged_caching::op, "slot_mapping",
                            Text("values below %lld", (long long)nslots),
                            Text("%lld at [%zu]", (long long)slots[n], n));
            }
        }
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        const int64_t *slots = run.data<int64_t>(T::slot_mapping);
        if (const Status status = check(slots); status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        char *k_cache = run.data<char>(T::k_cache), *v_cache = run.data<char>(T::v_cache);
        const char *new_k = run.data<char>(T::k), *new_v = run.data<char>(T::v);
        parallel_for(ntok, grain_for(2 * heads * (k.bytes + v.bytes)), [&](size_t begin, size_t end) {
            for (size_t n = begin; n < end; n++) {
                if (slots[n] >= 0) {
                    const ptrdiff_t block = slots[n] / int64_t(block_size), row = slots[n] % int64_t(block_size);
                    k.copy(k_cache, new_k, heads, ptrdiff_t(n), row, block);
                    v.copy(v_cache, new_v, heads, ptrdiff_t(n), row, block);
                }
            }
        });
        return INFINI_STATUS_SUCCESS;
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::paged_caching::op, schema::paged_caching::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
