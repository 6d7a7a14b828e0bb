// Copies, bit by bit. T: an integer of the elements' size; I: dtype of ids, lengths or slots.
#include "common.cl"

kernel void rearrange(constant const Nest *nest, global MEM(T) *dst, global const MEM(T) *src) {
    const i64 i = get_global_id(0);
    if (i < nest->count) {
        dst[nest_offset(nest, 0, i)] = src[nest_offset(nest, 1, i)];
    }
}

// Rows of a table by ids; an id outside the table leaves its row alone.
kernel void embedding(constant const CopyParams *p, global MEM(T) *output, global const MEM(I) *ids,
                      global const MEM(T) *table) {
    const i64 i = get_global_id(0);
    if (i >= p->rows.count * p->d) {
        return;
    }
    const i64 row = i / p->d, element = i % p->d;
    const i64 id = ids[nest_offset(&p->rows, 1, row)];
    if (id >= 0 && id < p->limit) {
        output[nest_offset(&p->rows, 0, row) + element * p->step[0]] = table[id * p->source_row + element * p->step[1]];
    }
}

// The row before the end of each request.
kernel void select_last_token_hidden(constant const CopyParams *p, global MEM(T) *output, global const MEM(T) *hidden,
                                     global const MEM(I) *offsets) {
    const i64 i = get_global_id(0);
    if (i >= p->rows.count * p->d) {
        return;
    }
    const i64 last = (i64)offsets[i / p->d + 1] - 1;
    if (last >= 0 && last < p->limit) {
        output[i] = hidden[last * p->d + i % p->d];
    }
}

// A work item copies element e of the key and of the value; `place`: the row of the cache.
static void cache_element(constant const CachingParams *p, global MEM(T) *k_cache, global MEM(T) *v_cache,
                          global const MEM(T) *k, global const MEM(T) *v, i64 sequence, i64 place, i64 of, i64 token,
                          i64 head, i64 e) {
    if (e < p->d) {
        k_cache[sequence * p->sequence[0] + head * p->head[0] + place * p->row[0] + e * p->element[0]] =
            k[of * p->sequence[2] + head * p->head[2] + token * p->row[2] + e * p->element[2]];
    }
    if (e < p->dv) {
        v_cache[sequence * p->sequence[1] + head * p->head[1] + place * p->row[1] + e * p->element[1]] =
            v[of * p->sequence[3] + head * p->head[3] + token * p->row[3] + e * p->element[3]];
    }
}

#define FIND_ELEMENT                                                                                                   \
    const i64 width = max(p->d, p->dv);                                                                                \
    i64 at = get_global_id(0);                                                                                         \
    const i64 e = at % width, head = at / width % p->heads, token = at / width / p->heads % p->tokens;                 \
    const i64 sequence = at / width / p->heads / p->tokens;                                                            \
    if (sequence >= p->sequences) {                                                                                    \
        return;                                                                                                        \
    }

kernel void paged_caching(constant const CachingParams *p, global MEM(T) *k_cache, global MEM(T) *v_cache,
                          global const MEM(T) *k, global const MEM(T) *v, global const MEM(I) *slots) {
    FIND_ELEMENT
    const i64 slot = slots[token];
    if (slot >= 0 && slot < p->places) {
        cache_element(p, k_cache, v_cache, k, v, slot / p->block_size, slot % p->block_size, 0, token, head, e);
    }
}

kernel void kv_caching(constant const CachingParams *p, global MEM(T) *k_cache, global MEM(T) *v_cache,
                       global const MEM(T) *k, global const MEM(T) *v, global const MEM(I) *lengths) {
    FIND_ELEMENT
    const i64 past = lengths[sequence];
    if (past >= 0 && past < p->places - token) {
        cache_element(p, k_cache, v_cache, k, v, sequence, past + token, sequence, token, head, e);
    }
}

// The first step of `attention`: block_size holds the rows that the cache has already.
kernel void append(constant const CachingParams *p, global MEM(T) *out, global const MEM(T) *q,
                   global const MEM(T) *k, global const MEM(T) *v, global MEM(T) *k_cache, global MEM(T) *v_cache) {
    FIND_ELEMENT
    cache_element(p, k_cache, v_cache, k, v, 0, p->block_size + token, 0, token, head, e);
}
