// A work-group per row: the key of the k-th entry bit by bit, then the entries at or above it, then their ranks.
// I: dtype of the indices; `chosen`, the workspace, holds k positions of each row.
#include "order.cl"

kernel void topk(constant const TopKParams *p, global MEM(T) *values, global MEM(I) *indices, global const MEM(T) *x,
                 global i64 *chosen) {
    local i64 room[GROUP];
    const i64 row = get_group_id(0), me = get_local_id(0);
    values += nest_offset(&p->rows, 0, row);
    indices += nest_offset(&p->rows, 1, row);
    x += nest_offset(&p->rows, 2, row);
    chosen += row * p->k;
    const order_t flip = p->largest ? 0 : ~(order_t)0;
#define KEY(i) (order_of(LOAD(T, x, (i) * p->step[2])) ^ flip)

    order_t bound = 0;
    for (order_t bit = TOP_BIT; bit; bit >>= 1) {
        i64 count = 0;
        for (i64 i = me; i < p->n; i += GROUP) {
            count += KEY(i) >= (bound | bit);
        }
        bound |= sum_of(room, count) >= p->k ? bit : 0;
    }

    // Each work item looks through neighbours, so that lower positions come first.
    const i64 share = (p->n + GROUP - 1) / GROUP, begin = min(me * share, p->n), end = min(begin + share, p->n);
    i64 above = 0, equal = 0;
    for (i64 i = begin; i < end; i++) {
        above += KEY(i) > bound;
        equal += KEY(i) == bound;
    }
    const i64 all_above = sum_of(room, above);
    i64 ties = sum_before(room, equal), at = sum_before(room, above) + min(ties, p->k - all_above);
    for (i64 i = begin; i < end; i++) {
        const order_t key = KEY(i);
        if (key > bound || (key == bound && ties++ < p->k - all_above)) {
            chosen[at++] = i;
        }
    }
    barrier(CLK_GLOBAL_MEM_FENCE);

    for (i64 c = me; c < p->k; c += GROUP) {
        const order_t key = KEY(chosen[c]);
        i64 rank = p->sorted ? 0 : c;
        for (i64 other = 0; p->sorted && other < p->k; other++) {
            const order_t theirs = KEY(chosen[other]);
            rank += theirs > key || (theirs == key && other < c);
        }
        values[rank * p->step[0]] = x[chosen[c] * p->step[2]];
        indices[rank * p->step[1]] = (MEM(I))chosen[c];
    }
}
