/* embedding: output[..., :] = weight[input[...], :]. An id outside the table leaves its row as it is. */
#include "backend.h"
#include "element.h"

enum { OUTPUT, INPUT, WEIGHT }; /* tensors */

struct axis {
    ptrdiff_t extent, output, input; /* strides in elements */
};
struct state {
    infiniDtype_t index;
    size_t itemsize, count, ndim;
    ptrdiff_t vocab, d, output, weight_row, weight; /* output, weight: strides along a row */
    struct axis axes[];                             /* of the ids */
};

static infiniStatus_t create(void *ctx, const infiniopCall *call, void **out, size_t *workspace) {
    const infiniopTensorView *output = call->tensors[OUTPUT], *input = call->tensors[INPUT];
    const infiniopTensorView *weight = call->tensors[WEIGHT];
    struct state *state = (struct state *)new_state(sizeof *state + input->ndim * sizeof state->axes[0]);
    (void)ctx;
    if (!state) {
        return INFINI_STATUS_INTERNAL_ERROR;
    }
    state->index = input->dtype;
    state->itemsize = size_of(weight->dtype);
    state->vocab = (ptrdiff_t)weight->shape[0];
    state->d = (ptrdiff_t)weight->shape[1];
    state->weight_row = weight->strides[0];
    state->weight = weight->strides[1];
    state->output = output->strides[input->ndim];
    state->count = weight->shape[1];
    state->ndim = input->ndim;
    for (size_t i = 0; i < input->ndim; ++i) {
        state->count *= input->shape[i];
        state->axes[i] = (struct axis){(ptrdiff_t)input->shape[i], output->strides[i], input->strides[i]};
    }
    *out = state;
    *workspace = 0;
    return INFINI_STATUS_SUCCESS;
}

static void walk(const struct state *s, size_t axis, const infiniopRun *run, ptrdiff_t output, ptrdiff_t input) {
    if (axis < s->ndim) {
        const struct axis *at = &s->axes[axis];
        for (ptrdiff_t i = 0; i < at->extent; ++i) {
            walk(s, axis + 1, run, output + i * at->output, input + i * at->input);
        }
        return;
    }
    const void *ids = run->data[INPUT];
    const int64_t id = s->index == INFINI_DTYPE_I32 ? ((const int32_t *)ids)[input] : ((const int64_t *)ids)[input];
    const ptrdiff_t size = (ptrdiff_t)s->itemsize;
    for (ptrdiff_t j = 0; id >= 0 && id < s->vocab && j < s->d; ++j) {
        const ptrdiff_t from = (ptrdiff_t)id * s->weight_row + j * s->weight, to = output + j * s->output;
        memcpy((char *)run->data[OUTPUT] + to * size, (const char *)run->data[WEIGHT] + from * size, s->itemsize);
    }
}

static infiniStatus_t calculate(void *raw, const infiniopRun *run) {
    const struct state *state = (const struct state *)raw;
    if (state->count > 0) {
        walk(state, 0, run, 0, 0);
    }
    return INFINI_STATUS_SUCCESS;
}

const infiniopKernel embedding_kernel = KERNEL("embedding", NULL);
