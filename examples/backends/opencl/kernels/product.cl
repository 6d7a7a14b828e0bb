// Matrix products, an element of the result per work item. T: dtype; WIDE: both operands lie along k, row by row.
#include "common.cl"

#ifdef WIDE
static float16 load16_F32(global const float *p) { return vload16(0, p); }
static float16 load16_F16(global const ushort *p) { return vload_half16(0, (global const half *)p); }
static float16 load16_BF16(global const ushort *p) { return as_float16(convert_uint16(vload16(0, p)) << 16); }
#endif

static float dot_along_k(constant const ProductParams *p, global const MEM(T) *a, global const MEM(T) *b) {
    float sum = 0;
    i64 k = 0;
#ifdef WIDE
    float16 wide = 0;
    for (; k + 16 <= p->k; k += 16) {
        wide = fma(PASTE(load16_, T)(a + k), PASTE(load16_, T)(b + k), wide);
    }
    const float8 eight = wide.lo + wide.hi;
    const float4 four = eight.lo + eight.hi;
    sum = four.x + four.y + four.z + four.w;
#endif
    for (; k < p->k; k++) {
        sum = fma(LOAD(T, a, k * p->a[2]), LOAD(T, b, k * p->b[1]), sum);
    }
    return sum;
}

#define FIND_ELEMENT                                                                                                   \
    const i64 at = get_global_id(0);                                                                                   \
    const i64 column = at % p->n, row = at / p->n % p->m, batch = at / p->n / p->m;                                    \
    if (batch >= p->batch) {                                                                                           \
        return;                                                                                                        \
    }                                                                                                                  \
    c += batch * p->c[0] + row * p->c[1] + column * p->c[2];                                                           \
    const float sum = dot_along_k(p, a + batch * p->a[0] + row * p->a[1], b + batch * p->b[0] + column * p->b[2])

kernel void gemm(constant const ProductParams *p, global MEM(T) *c, global const MEM(T) *a, global const MEM(T) *b,
                 float2 alpha_beta) {
    FIND_ELEMENT;
    STORE(T, c, 0, alpha_beta.x * sum + (alpha_beta.y == 0 ? 0 : alpha_beta.y * LOAD(T, c, 0)));
}

// b is the weight, read as its transpose.
kernel void linear(constant const ProductParams *p, global MEM(T) *c, global const MEM(T) *a, global const MEM(T) *b,
                   global const MEM(T) *bias) {
    FIND_ELEMENT;
    STORE(T, c, 0, bias ? sum + LOAD(T, bias, column) : sum);
}
