// What attention and flash_attention share: keys and values in plain tensors, causal or not.
#pragma once

#include "attention.h"

namespace infiniop::cpu {

// Strides of a tensor of heads.
struct DenseStrides {
    ptrdiff_t sequence, head, token, last;
};

struct DenseShape {
    DenseStrides q, k, v, out;
    size_t sequences, heads, kv_heads, tokens, keys, head_size;
    bool causal; // the last query sees every key
    float scale;

    AttentionPlan plan() const { return {sequences, heads, kv_heads, {head_size, head_size}, tokens, keys}; }
};

// length(sequence): keys that it has.
template <class E, class Length> struct DenseProblem {
    const DenseShape &s;
    size_t tile_tokens;
    const E *q, *keys, *values;
    E *out;
    Length length;
    ptrdiff_t k_last = s.k.last, v_last = s.v.last;

    size_t tiles_per_sequence() const { return div_up(s.tokens, tile_tokens); }
    size_t tiles() const { return s.sequences * tiles_per_sequence(); }

    TokenTile tile(size_t i) const {
        const size_t token = i % tiles_per_sequence() * tile_tokens;
        return {i / tiles_per_sequence(), token, std::min(tile_tokens, s.tokens - token)};
    }

    Queries<E> queries(const TokenTile &tile, size_t head, size_t heads) const {
        const ptrdiff_t n = ptrdiff_t(tile.sequence), h = ptrdiff_t(head), t = ptrdiff_t(tile.token);
        const int64_t all = length(tile.sequence);
        Queries<E> rows{};
        rows.q = q + n * s.q.sequence + h * s.q.head + t * s.q.token;
        rows.q_token = s.q.token;
        rows.q_head = s.q.head;
        rows.q_last = s.q.last;
        rows.out = out + n * s.out.sequence + h * s.out.head + t * s.out.token;
        rows.out_token = s.out.token;
        rows.out_head = s.out.head;
        rows.out_last = s.out.last;
        rows.tokens = tile.tokens;
        rows.heads = heads;
        rows.causal = s.causal;
        rows.limit = s.causal ? all - int64_t(s.tokens) + 1 + t : all;
        rows.scale = s.scale;
        return rows;
    }

    auto locate(size_t sequence, size_t kv_head) const {
        const E *k = keys + ptrdiff_t(sequence) * s.k.sequence + ptrdiff_t(kv_head) * s.k.head;
        const E *v = values + ptrdiff_t(sequence) * s.v.sequence + ptrdiff_t(kv_head) * s.v.head;
        return [k, v, k_token = s.k.token, v_token = s.v.token](size_t t, size_t count, const E **k_rows,
                                                                const E **v_rows) {
            for (size_t i = 0; i < count; i++) {
                k_rows[i] = k + ptrdiff_t(t + i) * k_token;
                v_rows[i] = v + ptrdiff_t(t + i) * v_token;
            }
        };
    }
};

} // namespace infiniop::cpu
