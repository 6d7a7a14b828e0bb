// A work-group per row. T: dtype.
#include "common.cl"

typedef REAL(T) real;

DEFINE_FOLD(group_maximum, real, fmax)
DEFINE_FOLD(group_sum, real, PLUS)

// The largest of x[0], x[step] … and the sum of the exponentials of the differences to it. A NaN ends up in the sum.
static void maximum_and_sum(local real *total, global const MEM(T) *x, i64 step, i64 n, real *maximum, real *sum) {
    real largest = -INFINITY, part = 0;
    for (i64 i = get_local_id(0); i < n; i += GROUP) {
        largest = fmax(largest, LOAD(T, x, i * step));
    }
    largest = group_maximum(total, largest);
    for (i64 i = get_local_id(0); i < n; i += GROUP) {
        part += exp(LOAD(T, x, i * step) - largest);
    }
    *maximum = largest;
    *sum = group_sum(total, part);
}

kernel void softmax(constant const SoftmaxParams *p, global MEM(T) *y, global const MEM(T) *x) {
    local real total[GROUP];
    real maximum, sum;
    y += nest_offset(&p->rows, 0, get_group_id(0));
    x += nest_offset(&p->rows, 1, get_group_id(0));
    maximum_and_sum(total, x, p->step[1], p->d, &maximum, &sum);
    for (i64 i = get_local_id(0); i < p->d; i += GROUP) {
        STORE(T, y, i * p->step[0], exp(LOAD(T, x, i * p->step[1]) - maximum) / sum);
    }
}

kernel void log_softmax(constant const SoftmaxParams *p, global MEM(T) *y, global const MEM(T) *x) {
    local real total[GROUP];
    real maximum, sum;
    y += nest_offset(&p->rows, 0, get_group_id(0));
    x += nest_offset(&p->rows, 1, get_group_id(0));
    maximum_and_sum(total, x, p->step[1], p->d, &maximum, &sum);
    sum = log(sum);
    for (i64 i = get_local_id(0); i < p->d; i += GROUP) {
        STORE(T, y, i * p->step[0], (LOAD(T, x, i * p->step[1]) - maximum) - sum);
    }
}

kernel void causal_softmax(constant const SoftmaxParams *p, global MEM(T) *y, global const MEM(T) *x) {
    local real total[GROUP];
    real maximum, sum;
    const i64 outer = get_group_id(0) / p->queries, query = get_group_id(0) % p->queries;
    const i64 kept = p->d - p->queries + 1 + query;
    y += nest_offset(&p->rows, 0, outer) + query * p->query_step[0];
    x += nest_offset(&p->rows, 1, outer) + query * p->query_step[1];
    maximum_and_sum(total, x, p->step[1], kept, &maximum, &sum);
    for (i64 i = get_local_id(0); i < p->d; i += GROUP) {
        STORE(T, y, i * p->step[0], i < kept ? exp(LOAD(T, x, i * p->step[1]) - maximum) / sum : 0);
    }
}
