// Numbers as integers of the same order, and what a work-group finds out about a row of them. T: dtype.
#include "common.cl"

typedef REAL(T) real;
#ifdef DOUBLES
typedef ulong order_t;
#define KEY_BITS 64
#define AS_BITS as_ulong
#else
typedef uint order_t;
#define KEY_BITS 32
#define AS_BITS as_uint
#endif
#define TOP_BIT ((order_t)1 << (KEY_BITS - 1))

// Zeros of either sign are equal; NaN is above everything.
static order_t order_of(real x) {
    if (isnan(x)) {
        return ~(order_t)0;
    }
    const order_t bits = x == 0 ? 0 : AS_BITS(x);
    return bits & TOP_BIT ? ~bits : bits | TOP_BIT;
}

#define LESS(a, b) min(a, b)
#define MORE(a, b) max(a, b)
DEFINE_FOLD(sum_of, i64, PLUS)
DEFINE_FOLD(least_of, i64, LESS)
DEFINE_FOLD(highest_of, order_t, MORE)

// Of the work items before this one.
static i64 sum_before(local i64 *room, i64 value) {
    room[get_local_id(0)] = value;
    barrier(CLK_LOCAL_MEM_FENCE);
    i64 sum = 0;
    for (uint i = 0; i < get_local_id(0); i++) {
        sum += room[i];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    return sum;
}
