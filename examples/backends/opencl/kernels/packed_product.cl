// linear with a packed weight, an element of the result per work item. T: dtype; CODE: its number in the header.
#include "common.cl"

#define U8_CODE 7

static uint read_u32(global const uchar *at) { return as_uint(vload4(0, at)); }
static i64 read_i64(global const uchar *at) { return as_long(vload8(0, at)); }
static float read_F32(global const uchar *at) { return as_float(vload4(0, at)); }
static float read_F16(global const uchar *at) {
    const ushort bits = as_ushort(vload2(0, at));
    return vload_half(0, (const half *)&bits);
}
static float read_BF16(global const uchar *at) { return as_float((uint)as_ushort(vload2(0, at)) << 16); }

// What is no packed weight of these extents in one of this backend's layouts leaves y alone.
kernel void linear_packed(constant const PackedParams *p, global MEM(T) *y, global const MEM(T) *x,
                          global const uchar *packed, global const MEM(T) *bias) {
    const i64 row = get_global_id(0) / p->n, column = get_global_id(0) % p->n;
    if (row >= p->m || p->room < PACKED_HEADER) {
        return;
    }
    const uint format = read_u32(packed + 12), code = read_u32(packed + 40), layout = read_u32(packed + 44);
    const i64 group_size = read_i64(packed + 32), size = sizeof(MEM(T));
    const int plain = format == 0 && layout == PACKED_OWN && code == CODE;
    const int quantised = (format == 1 || format == 2) && (layout == PACKED_SCALES || layout == PACKED_ZEROS);
    if (read_i64(packed) != PACKED_MAGIC || read_u32(packed + 8) != 1 || read_i64(packed + 16) != p->n ||
        read_i64(packed + 24) != p->k || group_size < 0 || (group_size && p->k % group_size) ||
        !(plain || quantised)) {
        return;
    }
    const i64 groups = group_size ? p->k / group_size : 1, length = groups ? p->k / groups : 0;
    const i64 row_bytes = plain ? p->k * size : format == 2 ? (p->k + 1) / 2 : p->k;
    const i64 scales = PACKED_HEADER + p->n * row_bytes, zeros = scales + (plain ? 0 : p->n * groups * 4);
    if (p->room < zeros + (layout == PACKED_ZEROS ? p->n * groups * 2 : 0)) {
        return;
    }
    x += row * p->x_row;
    global const uchar *values = packed + PACKED_HEADER + column * row_bytes;
    float sum = 0;
    if (plain) {
        for (i64 i = 0; i < p->k; i++) {
            sum = fma(LOAD(T, x, i), PASTE(read_, T)(values + i * size), sum);
        }
    } else {
        for (i64 g = 0; g < groups; g++) {
            const i64 at = column * groups + g;
            const float scale = read_F32(packed + scales + 4 * at);
            const int zero = layout == PACKED_ZEROS ? as_short(vload2(0, packed + zeros + 2 * at)) : 0;
            float part = 0;
            for (i64 i = g * length; i < (g + 1) * length; i++) {
                int q = format == 1 ? values[i] : values[i / 2] >> i % 2 * 4 & 15;
                if (code != U8_CODE) {
                    q = format == 1 ? (int)(char)q : (q ^ 8) - 8;
                }
                part = fma(LOAD(T, x, i), (float)(q - zero), part);
            }
            sum += part * scale;
        }
    }
    STORE(T, y, row * p->y_row + column, bias ? sum + LOAD(T, bias, column) : sum);
}
