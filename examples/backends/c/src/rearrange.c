/* rearrange: a copy into another layout of the same shape, bit by bit, any dtype. */
#include "backend.h"
#include "element.h"

enum { DST, SRC }; /* tensors */

struct axis {
    ptrdiff_t extent, dst, src; /* strides in bytes */
};
struct state {
    size_t itemsize, count, ndim;
    struct axis axes[];
};

static infiniStatus_t create(void *ctx, const infiniopCall *call, void **out, size_t *workspace) {
    const infiniopTensorView *dst = call->tensors[DST], *src = call->tensors[SRC];
    struct state *state = (struct state *)new_state(sizeof *state + dst->ndim * sizeof state->axes[0]);
    (void)ctx;
    if (!state) {
        return INFINI_STATUS_INTERNAL_ERROR;
    }
    const ptrdiff_t size = (ptrdiff_t)size_of(dst->dtype);
    state->itemsize = (size_t)size;
    state->ndim = dst->ndim;
    state->count = 1;
    for (size_t i = 0; i < state->ndim; ++i) {
        state->count *= dst->shape[i];
        state->axes[i] = (struct axis){(ptrdiff_t)dst->shape[i], dst->strides[i] * size, src->strides[i] * size};
    }
    *out = state;
    *workspace = 0;
    return INFINI_STATUS_SUCCESS;
}

static void walk(const struct state *s, size_t axis, char *dst, const char *src) {
    if (axis == s->ndim) {
        memcpy(dst, src, s->itemsize);
        return;
    }
    const struct axis *at = &s->axes[axis];
    for (ptrdiff_t i = 0; i < at->extent; ++i) {
        walk(s, axis + 1, dst + i * at->dst, src + i * at->src);
    }
}

static infiniStatus_t calculate(void *raw, const infiniopRun *run) {
    const struct state *state = (const struct state *)raw;
    if (state->count > 0) {
        walk(state, 0, (char *)run->data[DST], (const char *)run->data[SRC]);
    }
    return INFINI_STATUS_SUCCESS;
}

const infiniopKernel rearrange_kernel = KERNEL("rearrange", NULL);
