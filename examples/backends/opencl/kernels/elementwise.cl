// One element per work item. T: dtype; OP: operator; INPUTS: tensors it reads.
#include "common.cl"

#define add(a, b) ((a) + (b))
#define sub(a, b) ((a) - (b))
#define mul(a, b) ((a) * (b))
#define relu(x) ((x) < 0 ? 0 : (x))
#define sigmoid(x) (1 / (1 + exp(-(x))))
#define silu(x) ((x) / (1 + exp(-(x))))
#define gelu(x) ((x) / 2 * erfc(-(x) * sqrt((REAL(T))0.5f)))
#define swiglu(a, b) ((a) * silu(b))
#define silu_and_mul(a, b) (silu(a) * (b))

kernel void elementwise(constant const ElementwiseParams *p, global MEM(T) *c, global const MEM(T) *a
#if INPUTS == 2
                        , global const MEM(T) *b
#endif
) {
    const i64 i = get_global_id(0);
    if (i >= p->nest.count) {
        return;
    }
    const REAL(T) x = LOAD(T, a, nest_offset(&p->nest, 1, i));
#if INPUTS == 2
    const REAL(T) result = OP(x, LOAD(T, b, nest_offset(&p->nest, 2, i)));
#elif defined(HALVES)
    const REAL(T) result = OP(x, LOAD(T, a, p->second + nest_offset(&p->nest, 1, i)));
#else
    const REAL(T) result = OP(x);
#endif
    STORE(T, c, nest_offset(&p->nest, 0, i), result);
}
