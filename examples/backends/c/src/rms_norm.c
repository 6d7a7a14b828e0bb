/* rms_norm: y = x * w / sqrt(mean(x^2) + epsilon) over the last axis. Rows may have any strides, elements of a row lie
 * side by side; y may be x. */
#include "backend.h"
#include "element.h"

#include <math.h>

enum { Y, X, W };     /* tensors */
enum { EPSILON = 0 }; /* attributes */

struct state {
    infiniDtype_t dtype, weight;
    double epsilon;
    size_t outer, inner, d; /* [outer, inner, d]; two axes are three with one outer */
    ptrdiff_t y[2], x[2];   /* strides of the first two axes */
};

static infiniStatus_t create(void *ctx, const infiniopCall *call, void **out, size_t *workspace) {
    const infiniopTensorView *y = call->tensors[Y], *x = call->tensors[X];
    struct state *state = (struct state *)new_state(sizeof *state);
    (void)ctx;
    if (!state) {
        return INFINI_STATUS_INTERNAL_ERROR;
    }
    const size_t last = y->ndim - 1;
    *state = (struct state){.dtype = y->dtype, .weight = call->tensors[W]->dtype, .epsilon = call->attrs[EPSILON].f};
    state->outer = last == 2 ? y->shape[0] : 1;
    state->inner = y->shape[last - 1];
    state->d = y->shape[last];
    state->y[0] = y->strides[0], state->y[1] = y->strides[last - 1];
    state->x[0] = x->strides[0], state->x[1] = x->strides[last - 1];
    *out = state;
    *workspace = 0;
    return INFINI_STATUS_SUCCESS;
}

static void row(const struct state *s, const infiniopRun *run, ptrdiff_t y, ptrdiff_t x) {
    const ptrdiff_t d = (ptrdiff_t)s->d;
    double sum = 0;
    for (ptrdiff_t i = 0; i < d; ++i) {
        const double value = load(s->dtype, run->data[X], x + i);
        sum += value * value;
    }
    const double scale = 1 / sqrt(sum / (double)d + s->epsilon);
    for (ptrdiff_t i = 0; i < d; ++i) {
        const double value = load(s->dtype, run->data[X], x + i) * load(s->weight, run->data[W], i);
        store(s->dtype, run->data[Y], y + i, value * scale);
    }
}

static infiniStatus_t calculate(void *raw, const infiniopRun *run) {
    const struct state *s = (const struct state *)raw;
    for (ptrdiff_t i = 0; s->d > 0 && i < (ptrdiff_t)s->outer; ++i) {
        for (ptrdiff_t j = 0; j < (ptrdiff_t)s->inner; ++j) {
            row(s, run, i * s->y[0] + j * s->y[1], i * s->x[0] + j * s->x[1]);
        }
    }
    return INFINI_STATUS_SUCCESS;
}

const infiniopKernel rms_norm_kernel = KERNEL("rms_norm", NULL);
