// Rows normalised by a work-group each. T: dtype of the activations; W: of the weight.
#include "common.cl"

typedef REAL(T) real;

DEFINE_FOLD(group_sum, real, PLUS)

#define FOR_ROW(i) for (i64 i = get_local_id(0); i < p->d; i += GROUP)

kernel void rms_norm(constant const RowParams *p, global MEM(T) *y, global const MEM(T) *x, global const MEM(W) *w) {
    local real total[GROUP];
    const i64 row = get_group_id(0);
    y += nest_offset(&p->rows, 0, row);
    x += nest_offset(&p->rows, 1, row);
    real squares = 0;
    FOR_ROW(i) {
        const real v = LOAD(T, x, i * p->step[1]);
        squares += v * v;
    }
    const real scale = 1 / sqrt(group_sum(total, squares) / p->d + p->epsilon);
    FOR_ROW(i) {
        STORE(T, y, i * p->step[0], LOAD(T, x, i * p->step[1]) * (real)LOAD(W, w, i * p->weight_step) * scale);
    }
}

// The squares are of the unrounded sum; what is scaled is the sum as stored.
kernel void add_rms_norm(constant const RowParams *p, global MEM(T) *y, global MEM(T) *residual,
                         global const MEM(T) *a, global const MEM(T) *b, global const MEM(W) *w) {
    local real total[GROUP];
    const i64 row = get_group_id(0);
    y += nest_offset(&p->rows, 0, row);
    residual += nest_offset(&p->rows, 1, row);
    a += nest_offset(&p->rows, 2, row);
    b += nest_offset(&p->rows, 3, row);
    real squares = 0;
    FOR_ROW(i) {
        const real v = LOAD(T, a, i * p->step[2]) + LOAD(T, b, i * p->step[3]);
        STORE(T, residual, i * p->step[1], v);
        squares += v * v;
    }
    const real scale = 1 / sqrt(group_sum(total, squares) / p->d + p->epsilon);
    FOR_ROW(i) {
        STORE(T, y, i * p->step[0], LOAD(T, residual, i * p->step[1]) * (real)LOAD(W, w, i * p->weight_step) * scale);
    }
}

kernel void layer_norm(constant const RowParams *p, global MEM(T) *y, global MEM(T) *standardized,
                       global MEM(T) *deviations, global const MEM(T) *x, global const MEM(W) *w,
                       global const MEM(W) *bias) {
    local real total[GROUP];
    const i64 row = get_group_id(0);
    y += nest_offset(&p->rows, 0, row);
    standardized += nest_offset(&p->rows, 1, row);
    deviations += nest_offset(&p->rows, 2, row);
    x += nest_offset(&p->rows, 3, row);
    real sum = 0;
    FOR_ROW(i) { sum += LOAD(T, x, i * p->step[3]); }
    const real mean = group_sum(total, sum) / p->d;
    real squares = 0;
    FOR_ROW(i) {
        const real v = LOAD(T, x, i * p->step[3]) - mean;
        squares += v * v;
    }
    const real deviation = sqrt(group_sum(total, squares) / p->d + p->epsilon);
    FOR_ROW(i) {
        const real v = (LOAD(T, x, i * p->step[3]) - mean) / deviation;
        STORE(T, standardized, i * p->step[1], v);
        STORE(T, y, i * p->step[0],
              v * LOAD(W, w, i * p->weight_step) + (bias ? LOAD(W, bias, i * p->bias_step) : 0));
    }
    if (get_local_id(0) == 0) {
        STORE(T, deviations, 0, deviation);
    }
}
