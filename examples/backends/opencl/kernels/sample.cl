// A work-group per row of logits; nothing is sorted: a bound of the order is found bit by bit.
#include "order.cl"

#ifdef cl_khr_fp64
typedef double mass_t;
#else
typedef float mass_t;
#endif

// Truncated to the result's type: a program for each would take too long to build.
static void store_token(constant const SampleParams *p, global void *tokens, i64 row, i64 token) {
    const i64 at = row * p->token;
    if (p->token_size == 1) {
        ((global uchar *)tokens)[at] = (uchar)token;
    } else if (p->token_size == 2) {
        ((global ushort *)tokens)[at] = (ushort)token;
    } else if (p->token_size == 4) {
        ((global uint *)tokens)[at] = (uint)token;
    } else {
        ((global long *)tokens)[at] = token;
    }
}

typedef struct Row {
    global const MEM(T) *x;
    i64 n;
    real top, temperature;
    local order_t *keys;
    local i64 *counts;
    local mass_t *masses;
} Row;

#define LOGIT(row, i) LOAD(T, row->x, i)
#define KEY(row, i) order_of(LOGIT(row, i))

static mass_t mass_of(const Row *row, real logit) { return exp((logit - row->top) / row->temperature); }

DEFINE_FOLD(sum_of_masses, mass_t, PLUS)

// The mass of the logits at or above a bound.
static mass_t mass_from(const Row *row, order_t bound) {
    mass_t sum = 0;
    for (i64 i = get_local_id(0); i < row->n; i += GROUP) {
        const real x = LOGIT(row, i);
        sum += order_of(x) >= bound ? mass_of(row, x) : 0;
    }
    return sum_of_masses(row->masses, sum);
}

static i64 count_from(const Row *row, order_t bound) {
    i64 count = 0;
    for (i64 i = get_local_id(0); i < row->n; i += GROUP) {
        count += KEY(row, i) >= bound;
    }
    return sum_of(row->counts, count);
}

// The highest key at or above which there are `k` logits: that of the k-th in descending order.
static order_t key_of_rank(const Row *row, i64 k) {
    order_t bound = 0;
    for (order_t bit = TOP_BIT; bit; bit >>= 1) {
        bound |= count_from(row, bound | bit) >= k ? bit : 0;
    }
    return bound;
}

// The highest key at or above which lies `mass`; of the logits from `lowest` upwards.
static order_t key_of_mass(const Row *row, mass_t mass, order_t lowest, order_t highest) {
    order_t bound = 0;
    for (order_t bit = TOP_BIT; bit; bit >>= 1) {
        bound |= mass_from(row, bound | bit) >= mass ? bit : 0;
    }
    return clamp(bound, lowest, highest);
}

static i64 first_with(const Row *row, order_t key) {
    i64 first = row->n - 1;
    for (i64 i = row->n - 1 - get_local_id(0); i >= 0; i -= GROUP) {
        first = KEY(row, i) == key ? i : first;
    }
    return least_of(row->counts, first);
}

static order_t highest_key(const Row *row) {
    order_t highest = 0;
    for (i64 i = get_local_id(0); i < row->n; i += GROUP) {
        highest = max(highest, KEY(row, i));
    }
    return highest_of(row->keys, highest);
}

static order_t lowest_key(const Row *row) {
    order_t lowest = ~(order_t)0;
    for (i64 i = get_local_id(0); i < row->n; i += GROUP) {
        lowest = min(lowest, KEY(row, i));
    }
    return ~highest_of(row->keys, ~lowest);
}

// Of logits that are equal, the mass of one.
static mass_t mass_of_key(const Row *row, order_t key) { return mass_of(row, LOGIT(row, first_with(row, key))); }

#define ROW(logits, degrees)                                                                                           \
    local order_t keys[GROUP];                                                                                         \
    local i64 counts[GROUP];                                                                                           \
    local mass_t masses[GROUP];                                                                                        \
    Row row_ = {logits, p->vocab, 0, degrees, keys, counts, masses};                                                   \
    const Row *row = &row_;                                                                                            \
    const order_t highest = highest_key(row);                                                                          \
    const i64 argmax = first_with(row, highest);                                                                       \
    row_.top = LOGIT(row, argmax)

kernel void random_sample(constant const SampleParams *p, global void *result, global const MEM(T) *logits,
                          Draw draw) {
    ROW(logits + draw.row * p->row, draw.temperature);
    i64 token = argmax;
    if (draw.random_val != 0 && draw.topp != 0 && draw.topk != 1 && draw.temperature != 0 && isfinite(row->top)) {
        const order_t lowest = lowest_key(row);
        const mass_t all = mass_from(row, 0);
        mass_t limit = all;
        if (draw.topk > 0 && draw.topk < row->n) {
            const order_t key = key_of_rank(row, draw.topk);
            const i64 above = count_from(row, key + 1);
            limit = mass_from(row, key + 1) + (draw.topk - above) * mass_of_key(row, key);
        }
        limit = draw.random_val * fmin(limit, draw.topp * all);
        const order_t key = key_of_mass(row, limit, lowest, highest);
        const mass_t each = mass_of_key(row, key), missing = limit - mass_from(row, key + 1);

        // Of the equal ones, the first that reaches the limit.
        const i64 share = (row->n + GROUP - 1) / GROUP, begin = min((i64)get_local_id(0) * share, row->n);
        const i64 end = min(begin + share, row->n);
        i64 equal = 0;
        for (i64 i = begin; i < end; i++) {
            equal += KEY(row, i) == key;
        }
        const i64 ties = sum_of(counts, equal);
        i64 before = sum_before(counts, equal);
        const mass_t steps = each > 0 ? ceil(missing / each) - 1 : 0;
        const i64 wanted = steps < ties ? max((i64)steps, (i64)0) : ties - 1;
        i64 found = row->n;
        for (i64 i = begin; i < end; i++) {
            found = KEY(row, i) == key && before++ == wanted ? i : found;
        }
        found = least_of(counts, found);
        token = found < row->n ? found : argmax;
    }
    if (get_local_id(0) == 0) {
        store_token(p, result, draw.row, token);
    }
}

// The first word of Philox4x32-10.
static uint philox(ulong counter, ulong key) {
    uint c0 = (uint)counter, c1 = (uint)(counter >> 32), c2 = 0, c3 = 0, k0 = (uint)key, k1 = (uint)(key >> 32);
    for (int i = 0; i < 10; i++) {
        const ulong left = (ulong)0xD2511F53u * c0, right = (ulong)0xCD9E8D57u * c2;
        c0 = (uint)(right >> 32) ^ c1 ^ k0;
        c1 = (uint)right;
        c2 = (uint)(left >> 32) ^ c3 ^ k1;
        c3 = (uint)left;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c0;
}

kernel void sample(constant const SampleParams *p, global void *tokens, global const MEM(T) *logits,
                   global const float *temperatures, global const int *top_ks, global const float *top_ps,
                   global const float *min_ps, global const ulong *seeds, global const long *positions) {
    const i64 request = get_group_id(0);
    const float temperature = temperatures[request * p->step[0]], top_p = top_ps[request * p->step[2]];
    const float min_p = min_ps[request * p->step[3]];
    const int top_k = top_ks[request * p->step[1]];
    ROW(logits + request * p->row, temperature);
    i64 token = argmax;
    if (!(temperature >= 0 && isfinite(temperature) && top_p > 0 && min_p <= 1)) {
        token = -1;
    } else if (temperature > 0 && isfinite(row->top)) {
        // What is kept: keys above `bound`, and the first `ties` of those equal to it.
        order_t bound = top_k > 0 && top_k < row->n ? key_of_rank(row, top_k) : lowest_key(row);
        i64 ties = row->n;
        if (top_p < 1) {
            const mass_t wanted = top_p * mass_from(row, bound);
            bound = key_of_mass(row, wanted, bound, highest);
            const mass_t each = mass_of_key(row, bound), steps = ceil((wanted - mass_from(row, bound + 1)) / each);
            ties = steps < row->n ? max((i64)steps, (i64)1) : row->n;
        }

        // Sums in the vocabulary's order: every work item looks through neighbours.
        const i64 share = (row->n + GROUP - 1) / GROUP, begin = min((i64)get_local_id(0) * share, row->n);
        const i64 end = min(begin + share, row->n);
        i64 equal = 0;
        for (i64 i = begin; i < end; i++) {
            equal += KEY(row, i) == bound;
        }
        const i64 ties_before = sum_before(counts, equal);
#define FOR_KEPT(visit)                                                                                                \
    equal = ties_before;                                                                                               \
    for (i64 i = begin; i < end; i++) {                                                                                \
        const real x = LOGIT(row, i);                                                                                  \
        const order_t key = order_of(x);                                                                               \
        const mass_t mass = mass_of(row, x);                                                                           \
        if ((key > bound || (key == bound && equal++ < ties)) && !(mass < min_p)) {                                    \
            visit                                                                                                      \
        }                                                                                                              \
    }
        mass_t mine = 0;
        FOR_KEPT(mine += mass;)
        masses[get_local_id(0)] = mine;
        barrier(CLK_LOCAL_MEM_FENCE);
        mass_t before = 0, all = 0;
        for (uint i = 0; i < GROUP; i++) {
            before = i == get_local_id(0) ? all : before;
            all += masses[i];
        }
        const float number = (philox(positions[request * p->step[5]], seeds[request * p->step[4]]) >> 8) * 0x1p-24f;
        const mass_t target = number * all;
        i64 found = row->n;
        mass_t sum = 0;
        if (before + mine > target) {
            FOR_KEPT(sum += mass; if (before + sum > target) { found = min(found, i); })
        }
        found = least_of(counts, found);
        token = found < row->n ? found : argmax;
    }
    if (get_local_id(0) == 0) {
        store_token(p, tokens, request, token);
    }
}
