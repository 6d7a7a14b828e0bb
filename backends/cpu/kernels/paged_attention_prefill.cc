// paged_attention_prefill: the new tokens of several sequences, packed one after the other, over a paged KV cache.
#include "infiniop/schema/paged_attention_prefill.h"

#include "paged.h"

namespace infiniop::cpu {
namespace {

using schema::paged_attention_prefill::A;
using schema::paged_attention_prefill::op;
using schema::paged_attention_prefill::T;

struct State {
    infiniDtype_t dtype, index;
    size_t sequences, tokens;
    PagedCache cache;
    ptrdiff_t q[3], out[3];
    float scale;
    AttentionPlan plan;

    static Status create(const Call &call, State &s, size_t &workspace) {
        s.dtype = call.dtype(T::q);
        s.index = call.dtype(T::block_tables);
        s.sequences = call.dim(T::seq_lens, 0);
        s.tokens = call.dim(T::q, 0);
        s.cache = PagedCache::of(call, T::k_cache, T::v_cache, T::block_tables);
        for (size_t i = 0; i < 3; i++) {
            s.q[i] = call.stride(T::q, i);
            s.out[i] = call.stride(T::out, i);
        }
        s.scale = float(call.real(A::scale));
        s.plan = AttentionPlan(s.sequences, call.dim(T::q, 1), call.dim(T::k_cache, 1),
                               {call.last_dim(T::q), call.last_dim(T::out)}, s.tokens, s.cache.max_keys());
        workspace = s.plan.workspace();
        return INFINI_STATUS_SUCCESS;
    }

    template <class E, class I> struct Problem {
        const State &s;
        const E *q, *keys, *values;
        E *out;
        const I *tables, *lengths, *starts; // starts: cum_seq_lens_q
        const float *slopes;
        ptrdiff_t k_last, v_last;
        size_t count; // tiles

        size_t tiles_of(size_t sequence) const {
            return div_up(size_t(starts[sequence + 1] - starts[sequence]), s.plan.tile_tokens);
        }

        size_t tiles() const { return count; }

        TokenTile tile(size_t i) const {
            size_t n = 0;
            for (; i >= tiles_of(n); n++) {
                i -= tiles_of(n);
            }
            const size_t tokens = size_t(starts[n + 1] - starts[n]), token = i * s.plan.tile_tokens;
            return {n, token, std::min(s.plan.tile_tokens, tokens - token)};
        }

        Queries<E> queries(const TokenTile &tile, size_t head, size_t heads) const {
            const ptrdiff_t token = ptrdiff_t(starts[tile.sequence]) + ptrdiff_t(tile.token), h = ptrdiff_t(head);
            const int64_t tokens = int64_t(starts[tile.sequence + 1]) - int64_t(starts[tile.sequence]);
            return {q + token * s.q[0] + h * s.q[1],
                    out + token * s.out[0] + h * s.out[1],
                    s.q[0],
                    s.q[1],
                    s.q[2],
                    s.out[0],
                    s.out[1],
                    s.out[2],
                    tile.tokens,
                    heads,
                    int64_t(lengths[tile.sequence]) - tokens + int64_t(tile.token) + 1,
                    true,
                    s.scale,
                    slopes ? slopes + h : nullptr};
        }

        auto locate(size_t sequence, size_t kv_head) const {
            const E *k = keys + ptrdiff_t(kv_head) * s.cache.k.head, *v = values + ptrdiff_t(kv_head) * s.cache.v.head;
            const I *table = tables + ptrdiff_t(sequence) * s.cache.table_row;
            return [this, k, v, table](size_t t, size_t n, const E **k_rows, const E **v_rows) {
                s.cache.locate(k, v, table, t, n, k_rows, v_rows);
            };
        }
    };

    // Checks what the tensors hold, and counts the tiles.
    template <class E, class I> Status check(Problem<E, I> &problem) const {
        const I *starts = problem.starts;
        for (size_t n = 0; n <= sequences; n++) {
            const int64_t start = int64_t(starts[n]);
            if (start < (n ? int64_t(starts[n - 1]) : 0) || start > int64_t(tokens)) {
                return fail(INFINI_STATUS_BAD_PARAM, op, "cum_seq_lens_q",
                            Text("increasing values from 0 to %zu", tokens),
                            Text("%lld at [%zu]", (long long)start, n));
            }
        }
        for (size_t n = 0; n < sequences; n++) {
            const size_t tiles = problem.tiles_of(n);
            const Status status = tiles ? cache.check(op, problem.tables, problem.lengths, n) : INFINI_STATUS_SUCCESS;
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
            problem.count += tiles;
        }
        return INFINI_STATUS_SUCCESS;
    }

    template <class E, class I> Status calculate_as(const Run &run) const {
        Problem<E, I> problem{*this,
                              run.data<const E>(T::q),
                              run.data<const E>(T::k_cache),
                              run.data<const E>(T::v_cache),
                              run.data<E>(T::out),
                              run.data<const I>(T::block_tables),
                              run.data<const I>(T::seq_lens),
                              run.data<const I>(T::cum_seq_lens_q),
                              run.data<const float>(T::alibi_slopes),
                              cache.k.last,
                              cache.v.last,
                              0};
        if (const Status status = check(problem); status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        plan.run<E>(run.workspace<void>(), problem, 1e-6f, true);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        return visit_float(dtype, [&](auto data) {
            return visit_index(index, [&](auto id) {
                return calculate_as<typename decltype(data)::type, typename decltype(id)::type>(run);
            });
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(op, schema::paged_attention_prefill::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
