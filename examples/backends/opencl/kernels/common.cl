// Element types: how each lies in memory and what it is computed in; the walk over a Nest; sums over a work-group.
#include "params.h"

#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define MEM(X) PASTE(mem_, X)   /* in memory */
#define REAL(X) PASTE(real_, X) /* in arithmetic */
#define LOAD(X, p, i) PASTE(load_, X)((p) + (i))
#define STORE(X, p, i, v) PASTE(store_, X)((p) + (i), v)

#define PLAIN(X, type)                                                                                                 \
    typedef type mem_##X;                                                                                              \
    typedef type real_##X;                                                                                             \
    static type load_##X(const global type *p) { return *p; }                                                          \
    static void store_##X(global type *p, type v) { *p = v; }

PLAIN(I8, char)
PLAIN(I16, short)
PLAIN(I32, int)
PLAIN(I64, long)
PLAIN(U8, uchar)
PLAIN(U16, ushort)
PLAIN(U32, uint)
PLAIN(U64, ulong)
PLAIN(B16, ulong2)
PLAIN(F32, float)
#ifdef cl_khr_fp64
PLAIN(F64, double)
#endif

// Halves are storage only: the device need not compute with them.
typedef ushort mem_F16;
typedef float real_F16;
static float load_F16(const global ushort *p) { return vload_half(0, (const global half *)p); }
static void store_F16(global ushort *p, float v) { vstore_half_rte(v, 0, (global half *)p); }

typedef ushort mem_BF16;
typedef float real_BF16;
static float load_BF16(const global ushort *p) { return as_float((uint)*p << 16); }
static void store_BF16(global ushort *p, float v) {
    const uint bits = as_uint(v);
    *p = isnan(v) ? (ushort)(bits >> 16 | 0x40) : (ushort)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Where element `index` of a nest lies in operand `operand`.
static i64 nest_offset(constant const Nest *nest, int operand, i64 index) {
    i64 offset = 0;
    for (int axis = (int)nest->rank - 1; axis > 0; axis--) {
        const i64 extent = nest->shape[axis];
        offset += index % extent * nest->stride[operand][axis];
        index /= extent;
    }
    return offset + index * nest->stride[operand][0];
}

// The fold of what every work item has put into `room`, a local array of GROUP: all of them get it, and `room` may be
// written again. Few barriers, none of them in a loop: compilers for processors turn every one into loops of their own.
#define DEFINE_FOLD(name, type, combine)                                                                               \
    static type name(local type *room, type value) {                                                                   \
        room[get_local_id(0)] = value;                                                                                 \
        barrier(CLK_LOCAL_MEM_FENCE);                                                                                  \
        type result = room[0];                                                                                         \
        for (uint i_ = 1; i_ < GROUP; i_++) {                                                                          \
            result = combine(result, room[i_]);                                                                        \
        }                                                                                                              \
        barrier(CLK_LOCAL_MEM_FENCE);                                                                                  \
        return result;                                                                                                 \
    }
#define PLUS(a, b) ((a) + (b))
