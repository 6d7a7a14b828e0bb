/* add, sub, mul, relu, silu, swiglu: an output and one or two operands of one shape, of any rank and any strides. The
 * output may be the memory of an operand. */
#include "backend.h"
#include "element.h"

#include <math.h>

static double add(double a, double b) { return a + b; }
static double sub(double a, double b) { return a - b; }
static double mul(double a, double b) { return a * b; }
static double relu(double x, double unused) { return (void)unused, x < 0 ? 0 : x; }
static double silu(double x, double unused) { return (void)unused, x / (1 + exp(-x)); }
static double swiglu(double up, double gate) { return up * (gate / (1 + exp(-gate))); }

struct operation {
    double (*of)(double, double);
    size_t operands;
};

struct axis {
    ptrdiff_t extent, stride[3]; /* of the output and the operands; a second operand that is not there has 0 */
};
struct state {
    struct operation operation;
    infiniDtype_t dtype;
    size_t count, ndim;
    struct axis axes[];
};

static infiniStatus_t create(void *ctx, const infiniopCall *call, void **out, size_t *workspace) {
    const infiniopTensorView *output = call->tensors[0];
    struct state *state = (struct state *)new_state(sizeof *state + output->ndim * sizeof state->axes[0]);
    if (!state) {
        return INFINI_STATUS_INTERNAL_ERROR;
    }
    state->operation = *(const struct operation *)ctx;
    state->dtype = output->dtype;
    state->ndim = output->ndim;
    state->count = 1;
    for (size_t i = 0; i < state->ndim; ++i) {
        state->count *= output->shape[i];
        state->axes[i] = (struct axis){(ptrdiff_t)output->shape[i], {0}};
        for (size_t tensor = 0; tensor <= state->operation.operands; ++tensor) {
            state->axes[i].stride[tensor] = call->tensors[tensor]->strides[i];
        }
    }
    *out = state;
    *workspace = 0;
    return INFINI_STATUS_SUCCESS;
}

static void element(const struct state *s, void *c, ptrdiff_t ci, const void *a, ptrdiff_t ai, const void *b,
                    ptrdiff_t bi) {
    if (s->dtype == INFINI_DTYPE_I32) { /* only add has integers; without a sign, overflow wraps around */
        ((uint32_t *)c)[ci] = ((const uint32_t *)a)[ai] + ((const uint32_t *)b)[bi];
    } else if (s->dtype == INFINI_DTYPE_I64) {
        ((uint64_t *)c)[ci] = ((const uint64_t *)a)[ai] + ((const uint64_t *)b)[bi];
    } else {
        store(s->dtype, c, ci, s->operation.of(load(s->dtype, a, ai), load(s->dtype, b, bi)));
    }
}

static void walk(const struct state *s, size_t axis, const infiniopRun *run, ptrdiff_t c, ptrdiff_t a, ptrdiff_t b) {
    if (axis == s->ndim) {
        void *const *data = run->data;
        element(s, data[0], c, data[1], a, data[s->operation.operands], b);
        return;
    }
    const struct axis *at = &s->axes[axis];
    for (ptrdiff_t i = 0; i < at->extent; ++i) {
        walk(s, axis + 1, run, c + i * at->stride[0], a + i * at->stride[1], b + i * at->stride[2]);
    }
}

static infiniStatus_t calculate(void *raw, const infiniopRun *run) {
    const struct state *state = (const struct state *)raw;
    if (state->count > 0) { /* without elements the pointers are NULL */
        walk(state, 0, run, 0, 0, 0);
    }
    return INFINI_STATUS_SUCCESS;
}

static struct operation operations[] = {{add, 2}, {sub, 2}, {mul, 2}, {relu, 1}, {silu, 1}, {swiglu, 2}};

const infiniopKernel elementwise_kernels[6] = {
    KERNEL("add", &operations[0]),  KERNEL("sub", &operations[1]),  KERNEL("mul", &operations[2]),
    KERNEL("relu", &operations[3]), KERNEL("silu", &operations[4]), KERNEL("swiglu", &operations[5]),
};
