// Attention of one query by a work-group: a chunk of keys at a time, a key per work item, the softmax kept running.
// T: dtype; I: of lengths and tables; HEAD: room for a head's elements; PAGED: keys and values lie in blocks.
#include "common.cl"

DEFINE_FOLD(group_maximum, float, fmax)
DEFINE_FOLD(group_sum, float, PLUS)

typedef struct Scratch {
    float query[HEAD], sum[HEAD], weight[GROUP], total[GROUP];
} Scratch;

// Where key or value t lies, from the head's own place in the cache or in the block.
#ifdef PAGED
#define PLACE(strides, t) ((i64)table[(t) / p->block_size * p->table_step] * strides[0] + (t) % p->block_size * strides[2])
#else
#define PLACE(strides, t) ((t) * strides[2])
#endif

// The query sees the first `visible` keys; nothing is written unless `writes`. All arguments are the same for the whole
// group, and the barriers are on every way through it: not all compilers cope with barriers under a condition.
static void attend(constant const AttentionParams *p, local Scratch *scratch, global MEM(T) *out,
                   global const MEM(T) *q, global const MEM(T) *k, global const MEM(T) *v, global const MEM(I) *table,
                   i64 visible, float slope, int writes) {
    const int me = get_local_id(0);
    for (i64 e = me; e < p->d; e += GROUP) {
        scratch->query[e] = LOAD(T, q, e * p->q[3]);
    }
    for (i64 e = me; e < p->dv; e += GROUP) {
        scratch->sum[e] = 0;
    }
    float top = -INFINITY, total = 0;
    for (i64 first = 0; first < visible; first += GROUP) {
        const i64 t = first + me;
        barrier(CLK_LOCAL_MEM_FENCE); // the query is there; the last chunk's weights have been read
        float score = -INFINITY;
        if (t < visible) {
            global const MEM(T) *key = k + PLACE(p->k, t);
            float dot = 0;
            for (i64 e = 0; e < p->d; e++) {
                dot = fma(scratch->query[e], LOAD(T, key, e * p->k[3]), dot);
            }
            score = p->scale * dot + slope * (float)(t - (visible - 1));
        }
        const float next = fmax(top, group_maximum(scratch->total, score)), reference = next == -INFINITY ? 0 : next;
        const float shrink = exp(top - reference), weight = exp(score - reference);
        scratch->weight[me] = t < visible ? weight : 0;
        total = total * shrink + group_sum(scratch->total, scratch->weight[me]);
        top = next;
        const i64 count = min((i64)GROUP, visible - first);
        for (i64 e = me; e < p->dv; e += GROUP) {
            float part = 0; // sums by chunks keep their digits
            for (i64 i = 0; i < count; i++) {
                part = fma(scratch->weight[i], LOAD(T, v, PLACE(p->v, first + i) + e * p->v[3]), part);
            }
            scratch->sum[e] = scratch->sum[e] * shrink + part;
        }
    }
    for (i64 e = me; e < p->dv && writes; e += GROUP) {
        STORE(T, out, e * p->out[3], total == 0 ? 0 : scratch->sum[e] / (total + p->epsilon));
    }
}

#define FIND_QUERY                                                                                                     \
    local Scratch scratch;                                                                                             \
    const i64 head = get_group_id(0) % p->heads, row = get_group_id(0) / p->heads % p->rows;                           \
    const i64 sequence = get_group_id(0) / p->heads / p->rows;                                                         \
    out += sequence * p->out[0] + head * p->out[1] + row * p->out[2];                                                  \
    q += sequence * p->q[0] + head * p->q[1] + row * p->q[2];                                                          \
    k += head / p->group * p->k[1];                                                                                    \
    v += head / p->group * p->v[1]

#ifdef PAGED

// Whether the table covers the length, with blocks that exist. The same for the whole group.
static int covers(constant const AttentionParams *p, local int *wrong, global const MEM(I) *table, i64 length) {
    if (get_local_id(0) == 0) {
        *wrong = length > p->table_width * p->block_size;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    const i64 used = *wrong ? 0 : (length + p->block_size - 1) / p->block_size;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (i64 i = get_local_id(0); i < used; i += GROUP) {
        const i64 block = table[i * p->table_step];
        if (block < 0 || block >= p->blocks) {
            *wrong = 1;
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return !*wrong;
}

kernel void paged_attention(constant const AttentionParams *p, global MEM(T) *out, global const MEM(T) *q,
                            global const MEM(T) *k, global const MEM(T) *v, global const MEM(I) *tables,
                            global const MEM(I) *lengths, global const float *slopes) {
    FIND_QUERY;
    local int wrong;
    const i64 length = lengths[sequence];
    global const MEM(I) *table = tables + sequence * p->table_row;
    const i64 visible = covers(p, &wrong, table, length) ? length : 0;
    attend(p, &scratch, out, q, k, v, table, visible, slopes ? slopes[head] : 0, visible > 0);
}

// All queries are one row after the other; `starts` says where a sequence's begin.
kernel void paged_attention_prefill(constant const AttentionParams *p, global MEM(T) *out, global const MEM(T) *q,
                                    global const MEM(T) *k, global const MEM(T) *v, global const MEM(I) *tables,
                                    global const MEM(I) *lengths, global const MEM(I) *starts,
                                    global const float *slopes) {
    FIND_QUERY;
    local int wrong;
    i64 mine = -1, before = 0;
    int sound = 1;
    for (i64 s = 0; s <= p->nseq; s++) {
        const i64 start = starts[s];
        sound &= start >= before && start <= p->rows;
        mine = start <= row ? s : mine;
        before = start;
    }
    const int has_sequence = sound && mine >= 0 && mine < p->nseq;
    const i64 length = has_sequence ? (i64)lengths[mine] : 0;
    const i64 behind = has_sequence ? (i64)starts[mine + 1] - 1 - row : 0;
    global const MEM(I) *table = tables + (has_sequence ? mine : 0) * p->table_row;
    const i64 visible = covers(p, &wrong, table, length) ? length - behind : 0;
    attend(p, &scratch, out, q, k, v, table, visible, slopes ? slopes[head] : 0, visible > 0);
}

#else

kernel void flash_attention(constant const AttentionParams *p, global MEM(T) *out, global const MEM(T) *q,
                            global const MEM(T) *k, global const MEM(T) *v, global const MEM(I) *lengths) {
    FIND_QUERY;
    const i64 length = lengths[sequence * p->length_step];
    const int fits = length >= 0 && length <= p->keys;
    const i64 visible = p->causal ? min(length - p->rows + 1 + row, length) : length;
    attend(p, &scratch, out, q, k + sequence * p->k[0], v + sequence * p->v[0], 0, fits ? visible : 0, 0, fits);
}

// The new keys and values are in the caches.
kernel void attention(constant const AttentionParams *p, global MEM(T) *out, global const MEM(T) *q,
                      global const MEM(T) *new_k, global const MEM(T) *new_v, global const MEM(T) *k,
                      global const MEM(T) *v) {
    FIND_QUERY;
    attend(p, &scratch, out, q, k, v, 0, p->past + row + 1, 0, 1);
}

#endif
