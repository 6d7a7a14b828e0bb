// A pair of elements per work item. T: dtype; P: of the positions; NEIGHBOURS: a pair is two neighbours, else one of
// each half.
#include "common.cl"

kernel void rope(constant const RopeParams *p, global MEM(T) *y, global const MEM(T) *x, global const MEM(P) *positions,
                 global const MEM(T) *sines, global const MEM(T) *cosines) {
    i64 at = get_global_id(0);
    const i64 pair = at % p->half_d, head = at / p->half_d % p->heads, token = at / p->half_d / p->heads % p->tokens;
    const i64 batch = at / p->half_d / p->heads / p->tokens;
    if (batch >= p->batch) {
        return;
    }
    const i64 position = (i64)positions[batch * p->position[0] + token * p->position[1]];
    if (position < 0 || position >= p->positions) {
        return;
    }
#ifdef NEIGHBOURS
    const i64 first = 2 * pair, second = first + 1;
#else
    const i64 first = pair, second = pair + p->half_d;
#endif
    x += batch * p->x[0] + token * p->x[1] + head * p->x[2];
    y += batch * p->y[0] + token * p->y[1] + head * p->y[2];
    const REAL(T) sine = LOAD(T, sines, position * p->half_d + pair);
    const REAL(T) cosine = LOAD(T, cosines, position * p->half_d + pair);
    const REAL(T) a = LOAD(T, x, first), b = LOAD(T, x, second);
    STORE(T, y, first, a * cosine - b * sine);
    STORE(T, y, second, a * sine + b * cosine);
}
