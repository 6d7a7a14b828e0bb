// Packs weights. W, S, Z: dtypes of the weight, its scales and its zeros; INTEGERS: it has scales; QUANTISED: the result
// has. The buffer may lie at any address: what is longer than a byte is put together from bytes.
#include "common.cl"

#define INT4 2

static i64 row_bytes(constant const PackedParams *p) {
    return p->format == INT4 ? (p->k + 1) / 2 : p->format ? p->k : p->k * (i64)sizeof(MEM(W));
}
static i64 scales_at(constant const PackedParams *p) { return PACKED_HEADER + p->n * row_bytes(p); }
static i64 zeros_at(constant const PackedParams *p) { return scales_at(p) + p->n * p->groups * 4; }

kernel void linear_packed_size(constant const PackedParams *p, global i64 *size, global const MEM(W) *weight,
                               global const MEM(S) *scales, global const MEM(Z) *zeros) {
    if (get_global_id(0) == 0) {
        *size = p->size;
    }
}

static void write_header(constant const PackedParams *p, global uchar *packed) {
    vstore8(as_uchar8((i64)PACKED_MAGIC), 0, packed);
    vstore4(as_uchar4(1u), 0, packed + 8);
    vstore4(as_uchar4((uint)p->format), 0, packed + 12);
    vstore8(as_uchar8(p->n), 0, packed + 16);
    vstore8(as_uchar8(p->k), 0, packed + 24);
    vstore8(as_uchar8(p->group_size), 0, packed + 32);
    vstore4(as_uchar4((uint)p->dtype), 0, packed + 40);
    vstore4(as_uchar4((uint)p->layout), 0, packed + 44);
    vstore16((uchar16)(0), 0, packed + 48);
}

#ifdef QUANTISED
// Of a group of floats: as linear_pack's semantics say, rounded to bf16.
static float scale_of(constant const PackedParams *p, global const MEM(W) *group, i64 length) {
    float low = 0, high = 0;
    for (i64 i = 0; i < length; i++) {
        const float w = LOAD(W, group, i);
        low = fmin(low, w);
        high = fmax(high, w);
    }
    const float scale = p->format == INT4 ? (-low >= high ? low : high) / -8.0f : fmax(-low, high) / 127.0f;
    const uint bits = as_uint(scale);
    return as_float((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
}
#endif

static void pack_row(constant const PackedParams *p, global uchar *packed, global const MEM(W) *weight,
                     global const MEM(S) *scales, global const MEM(Z) *zeros, i64 row) {
    global uchar *values = packed + PACKED_HEADER + row * row_bytes(p);
#ifndef QUANTISED
    global const uchar *from = (global const uchar *)(weight + row * p->weight_row);
    for (i64 i = 0; i < row_bytes(p); i++) {
        values[i] = from[i];
    }
#else
    weight += row * p->weight_row;
    const i64 length = p->groups ? p->k / p->groups : 0;
    for (i64 g = 0; g < p->groups; g++) {
        const i64 at = row * p->groups + g;
#ifdef INTEGERS
        const float scale = LOAD(S, scales, row * p->scales_row + g);
        if (zeros) {
            vstore2(as_uchar2((short)zeros[row * p->zeros_row + g]), 0, packed + zeros_at(p) + 2 * at);
        }
#else
        const float scale = scale_of(p, weight + g * length, length);
#endif
        vstore4(as_uchar4(scale), 0, packed + scales_at(p) + 4 * at);
        for (i64 i = g * length; i < (g + 1) * length; i++) {
#ifdef INTEGERS
            const uchar q = (uchar)weight[i];
#else
            const float limit = p->format == INT4 ? 7 : 127, lowest = p->format == INT4 ? -8 : -127;
            const uchar q = scale == 0 ? 0 : (uchar)(char)rint(clamp(LOAD(W, weight, i) / scale, lowest, limit));
#endif
            if (p->format != INT4) {
                values[i] = q;
            } else {
                values[i / 2] = i % 2 ? (values[i / 2] & 15) | q << 4 : q & 15;
            }
        }
    }
#endif
}

// A row per work item: packing happens once.
kernel void linear_pack(constant const PackedParams *p, global uchar *packed, global const MEM(W) *weight,
                        global const MEM(S) *scales, global const MEM(Z) *zeros) {
    const i64 row = get_global_id(0);
    if (row == 0) {
        write_header(p, packed);
    }
    if (row < p->n) {
        pack_row(p, packed, weight, scales, zeros, row);
    }
}
