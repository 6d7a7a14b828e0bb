// paged_attention: one query token per sequence over a paged KV cache.
#include "infiniop/schema/paged_attention.h"

#include "paged.h"

namespace infiniop::cpu {
namespace {

using schema::paged_attention::A;
using schema::paged_attention::T;

struct State {
    infiniDtype_t dtype, index;
    size_t sequences;
    PagedCache cache;
    ptrdiff_t q[3], out[3];
    float scale;
    AttentionPlan plan;

    static Status create(const Call &call, State &s, size_t &workspace) {
        s.dtype = call.dtype(T::q);
        s.index = call.dtype(T::block_tables);
        s.sequences = call.dim(T::q, 0);
        s.cache = PagedCache::of(call, T::k_cache, T::v_cache, T::block_tables);
        for (size_t i = 0; i < 3; i++) {
            s.q[i] = call.stride(T::q, i);
            s.out[i] = call.stride(T::out, i);
        }
        s.scale = float(call.real(A::scale));
        s.plan = AttentionPlan(s.sequences, call.dim(T::q, 1), call.dim(T::k_cache, 1),
                               {call.last_dim(T::q), call.last_dim(T::out)}, 1, s.cache.max_keys());
        workspace = s.plan.workspace();
        return INFINI_STATUS_SUCCESS;
    }

    template <class E, class I> struct Problem {
        const State &s;
        const E *q, *keys, *values;
        E *out;
        const I *tables, *lengths;
        const float *slopes;
        ptrdiff_t k_last, v_last;

        size_t tiles() const { return s.sequences; }
        TokenTile tile(size_t i) const { return {i, 0, 1}; }

        Queries<E> queries(const TokenTile &tile, size_t head, size_t heads) const {
            const ptrdiff_t n = ptrdiff_t(tile.sequence), h = ptrdiff_t(head);
            return {q + n * s.q[0] + h * s.q[1],
                    out + n * s.out[0] + h * s.out[1],
                    0,
                    s.q[1],
                    s.q[2],
                    0,
                    s.out[1],
                    s.out[2],
                    1,
                    heads,
                    int64_t(lengths[tile.sequence]),
                    false,
                    s.scale,
                    slopes ? slopes + h : nullptr};
        }

        auto locate(size_t sequence, size_t kv_head) const {
            const E *k = keys + ptrdiff_t(kv_head) * s.cache.k.head, *v = values + ptrdiff_t(kv_head) * s.cache.v.head;
            const I *table = tables + ptrdiff_t(sequence) * s.cache.table_row;
            return [this, k, v, table](size_t t, size_t count, const E **k_rows, const E **v_rows) {
                s.cache.locate(k, v, table, t, count, k_rows, v_rows);
            };
        }
    };

    template <class E, class I> Status calculate_as(const Run &run) const {
        const Problem<E, I> problem{*this,
                                    run.data<const E>(T::q),
                                    run.data<const E>(T::k_cache),
                                    run.data<const E>(T::v_cache),
                                    run.data<E>(T::out),
                                    run.data<const I>(T::block_tables),
                                    run.data<const I>(T::seq_lens),
                                    run.data<const float>(T::alibi_slopes),
                                    cache.k.last,
                                    cache.v.last};
        for (size_t n = 0; n < sequences; n++) {
            const Status status = cache.check(schema::paged_attention::op, problem.tables, problem.lengths, n);
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
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

constexpr infiniopKernel kernel = make_kernel<State>(schema::paged_attention::op, schema::paged_attention::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
