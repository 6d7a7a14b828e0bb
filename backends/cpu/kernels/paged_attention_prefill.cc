// paged_attention_prefill: the new tokens of several sequences, packed one after the other, over a paged KV cache.
#include "infiniop/schema/paged_attention_prefill.h"

#include "paged.h"

namespace infiniop::cpu {
namespace {

using schema::paged_attention_prefill::A;
using schema::paged_attention_prefill::op;
using schema::paged_attention_prefill::T;

template <class I> struct PackedTokens {
    const I *starts; // cum_seq_lens_q
    size_t tile_tokens, count;

    size_t tiles_of(size_t sequence) const {
        return div_up(size_t(starts[sequence + 1] - starts[sequence]), tile_tokens);
    }

    int64_t begin(size_t sequence) const { return int64_t(starts[sequence]); }
    size_t tiles() const { return count; }

    TokenTile tile(size_t i) const {
        size_t n = 0;
        for (; i >= tiles_of(n); n++) {
            i -= tiles_of(n);
        }
        const size_t tokens = size_t(starts[n + 1] - starts[n]), token = i * tile_tokens;
        return {n, token, std::min(tile_tokens, tokens - token)};
    }
};

struct State : PagedState<T, A> {
    static Status create(const Call &call, State &s, size_t &workspace) {
        s.prepare(call, call.dim(T::q, 0), workspace);
        return INFINI_STATUS_SUCCESS;
    }

    // Checks what the tensors hold, and counts the tiles.
    template <class I> Status check(const Run &run, PackedTokens<I> &packed) const {
        const I *starts = packed.starts;
        for (size_t n = 0; n <= sequences; n++) {
            const int64_t start = int64_t(starts[n]);
            if (start < (n ? int64_t(starts[n - 1]) : 0) || start > int64_t(tokens)) {
                return fail(INFINI_STATUS_BAD_PARAM, op, "cum_seq_lens_q",
                            Text("increasing values from 0 to %zu", tokens),
                            Text("%lld at [%zu]", (long long)start, n));
            }
        }
        for (size_t n = 0; n < sequences; n++) {
            const size_t tiles = packed.tiles_of(n);
            const Status status =
                tiles ? cache.check(op, run.data<const I>(T::block_tables), run.data<const I>(T::seq_lens), n)
                      : INFINI_STATUS_SUCCESS;
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
            packed.count += tiles;
        }
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        return visit([&](auto element, auto id) {
            using E = typename decltype(element)::type;
            using I = typename decltype(id)::type;
            PackedTokens<I> packed{run.data<const I>(T::cum_seq_lens_q), plan.tile_tokens, 0};
            const Status status = check(run, packed);
            if (status == INFINI_STATUS_SUCCESS) {
                attend<E, I>(run, packed);
            }
            return status;
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(op, schema::paged_attention_prefill::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
