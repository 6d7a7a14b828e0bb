// What paged_attention and paged_attention_prefill share: block tables, lengths, keys by block, and the problem that
// they pose. They differ in how many tokens of a sequence are queries.
#pragma once

#include "attention.h"

namespace infiniop::cpu {

// Indices of any of the three types that the ABI allows.
template <class F> Status visit_index(infiniDtype_t dtype, F &&f) {
    switch (dtype) {
    case INFINI_DTYPE_I32:
        return f(Type<int32_t>{});
    case INFINI_DTYPE_U32:
        return f(Type<uint32_t>{});
    case INFINI_DTYPE_I64:
        return f(Type<int64_t>{});
    default:
        return unsupported_dtype();
    }
}

struct PagedCache {
    struct Side {
        ptrdiff_t block, head, row, last;
    };

    Side k, v;
    size_t nblocks, block_size;
    ptrdiff_t table_row;
    size_t table_blocks; // entries of a block table

    static PagedCache of(const Call &call, size_t k_cache, size_t v_cache, size_t block_tables) {
        const auto side = [&](size_t t) {
            return Side{call.stride(t, 0), call.stride(t, 1), call.stride(t, 2), call.stride(t, 3)};
        };
        return {side(k_cache),
                side(v_cache),
                call.dim(k_cache, 0),
                call.dim(k_cache, 2),
                call.stride(block_tables, 0),
                call.dim(block_tables, 1)};
    }

    size_t max_keys() const { return table_blocks * block_size; }

    // Whether a sequence's length fits its table, and the entries that it uses name blocks.
    template <class I> Status check(const char *op, const I *tables, const I *lengths, size_t sequence) const {
        const int64_t length = int64_t(lengths[sequence]);
        if (length > int64_t(max_keys())) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "seq_lens", Text("lengths of at most %zu", max_keys()),
                        Text("%lld at [%zu]", (long long)length, sequence));
        }
        const I *table = tables + ptrdiff_t(sequence) * table_row;
        for (int64_t i = 0; i * int64_t(block_size) < length; i++) {
            if (int64_t(table[i]) < 0 || int64_t(table[i]) >= int64_t(nblocks)) {
                return fail(INFINI_STATUS_BAD_PARAM, op, "block_tables", Text("blocks below %zu", nblocks),
                            Text("%lld at [%zu, %lld]", (long long)table[i], sequence, (long long)i));
            }
        }
        return INFINI_STATUS_SUCCESS;
    }

    template <class T, class I>
    void locate(const T *keys, const T *values, const I *table, size_t t, size_t count, const T **k_rows,
                const T **v_rows) const {
        size_t block = t / block_size, row = t % block_size;
        for (size_t i = 0; i < count; block++, row = 0) {
            const ptrdiff_t which = ptrdiff_t(table[block]);
            for (; row < block_size && i < count; row++, i++) {
                k_rows[i] = keys + which * k.block + ptrdiff_t(row) * k.row;
                v_rows[i] = values + which * v.block + ptrdiff_t(row) * v.row;
            }
        }
    }
};

// Tokens: where a sequence's queries begin, and tiles of them; begin(n), tiles(), tile(i).
template <class E, class I, class Tokens> struct PagedProblem {
    const PagedCache &cache;
    const ptrdiff_t *q_strides, *out_strides; // token, head, last
    float scale;
    Tokens tokens;
    const E *q, *keys, *values;
    E *out;
    const I *tables, *lengths;
    const float *slopes; // (optional)
    ptrdiff_t k_last = cache.k.last, v_last = cache.v.last;

    size_t tiles() const { return tokens.tiles(); }
    TokenTile tile(size_t i) const { return tokens.tile(i); }

    Queries<E> queries(const TokenTile &tile, size_t head, size_t heads) const {
        const int64_t begin = tokens.begin(tile.sequence), count = tokens.begin(tile.sequence + 1) - begin;
        const ptrdiff_t token = ptrdiff_t(begin) + ptrdiff_t(tile.token), h = ptrdiff_t(head);
        return {q + token * q_strides[0] + h * q_strides[1],
                out + token * out_strides[0] + h * out_strides[1],
                q_strides[0],
                q_strides[1],
                q_strides[2],
                out_strides[0],
                out_strides[1],
                out_strides[2],
                tile.tokens,
                heads,
                int64_t(lengths[tile.sequence]) - count + int64_t(tile.token) + 1,
                true,
                scale,
                slopes ? slopes + h : nullptr};
    }

    auto locate(size_t sequence, size_t kv_head) const {
        const E *k = keys + ptrdiff_t(kv_head) * cache.k.head, *v = values + ptrdiff_t(kv_head) * cache.v.head;
        const I *table = tables + ptrdiff_t(sequence) * cache.table_row;
        return [this, k, v, table](size_t t, size_t count, const E **k_rows, const E **v_rows) {
            cache.locate(k, v, table, t, count, k_rows, v_rows);
        };
    }
};

// The state of both operators; T and A are the indices of an operator's tensors and attributes.
template <class T, class A> struct PagedState {
    infiniDtype_t dtype, index;
    size_t sequences, tokens; // tokens: of a sequence, at most
    PagedCache cache;
    ptrdiff_t q[3], out[3];
    float scale;
    AttentionPlan plan;

    void prepare(const Call &call, size_t most_tokens, size_t &workspace) {
        dtype = call.dtype(T::q);
        index = call.dtype(T::block_tables);
        sequences = call.dim(T::seq_lens, 0);
        tokens = most_tokens;
        cache = PagedCache::of(call, T::k_cache, T::v_cache, T::block_tables);
        for (size_t i = 0; i < 3; i++) {
            q[i] = call.stride(T::q, i);
            out[i] = call.stride(T::out, i);
        }
        scale = float(call.real(A::scale));
        plan = AttentionPlan(sequences, call.dim(T::q, 1), call.dim(T::k_cache, 1),
                             {call.last_dim(T::q), call.last_dim(T::out)}, tokens, cache.max_keys());
        workspace = plan.workspace();
    }

    // Calls f(Type<E>{}, Type<I>{}) with the types of elements and indices.
    template <class F> Status visit(F &&f) const {
        return visit_float(dtype,
                           [&](auto element) { return visit_index(index, [&](auto id) { return f(element, id); }); });
    }

    template <class E, class I, class Tokens> void attend(const Run &run, const Tokens &of_sequences) const {
        const PagedProblem<E, I, Tokens> problem{cache,
                                                 q,
                                                 out,
                                                 scale,
                                                 of_sequences,
                                                 run.data<const E>(T::q),
                                                 run.data<const E>(T::k_cache),
                                                 run.data<const E>(T::v_cache),
                                                 run.data<E>(T::out),
                                                 run.data<const I>(T::block_tables),
                                                 run.data<const I>(T::seq_lens),
                                                 run.data<const float>(T::alibi_slopes)};
        plan.template run<E>(run.workspace<void>(), problem, 1e-6f, true);
    }
};

} // namespace infiniop::cpu
