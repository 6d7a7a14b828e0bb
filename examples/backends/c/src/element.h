/* One element of any floating-point dtype as a double, and back. */
#pragma once

#include <stdint.h>
#include <string.h>

#include <infinicore.h>

static inline size_t size_of(infiniDtype_t dtype) {
    switch (dtype) {
    case INFINI_DTYPE_C128:
        return 16;
    case INFINI_DTYPE_F64:
    case INFINI_DTYPE_I64:
    case INFINI_DTYPE_U64:
    case INFINI_DTYPE_C64:
        return 8;
    case INFINI_DTYPE_F32:
    case INFINI_DTYPE_I32:
    case INFINI_DTYPE_U32:
    case INFINI_DTYPE_C32:
        return 4;
    case INFINI_DTYPE_F16:
    case INFINI_DTYPE_BF16:
    case INFINI_DTYPE_I16:
    case INFINI_DTYPE_U16:
    case INFINI_DTYPE_C16:
        return 2;
    default:
        return 1;
    }
}

static inline float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float from_f16(uint16_t half) {
    const uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00) { /* infinity, NaN */
        return float_of(sign | 0x7f800000 | magnitude << 13);
    }
    return magnitude < 0x400 ? (sign ? -0x1p-24f : 0x1p-24f) * (float)magnitude /* subnormal */
                             : float_of(sign | ((magnitude << 13) + 0x38000000));
}

/* To nearest, ties to even. */
static inline uint16_t to_f16(float x) {
    const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude >= 0x477ff000) { /* from 65520 on: infinity; NaN stays NaN */
        half = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    } else if (magnitude < 0x38800000) { /* below 2^-14: a sum beside 0.5 is rounded to a multiple of 2^-24 */
        half = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
    } else {
        half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
    }
    return (uint16_t)(sign | half);
}

static inline uint16_t to_bf16(float x) {
    const uint32_t bits = bits_of(x);
    const uint32_t rounded = x != x ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
    return (uint16_t)(rounded >> 16);
}

static inline double load(infiniDtype_t dtype, const void *data, ptrdiff_t i) {
    switch (dtype) {
    case INFINI_DTYPE_F16:
        return from_f16(((const uint16_t *)data)[i]);
    case INFINI_DTYPE_BF16:
        return float_of((uint32_t)((const uint16_t *)data)[i] << 16);
    case INFINI_DTYPE_F32:
        return ((const float *)data)[i];
    default:
        return ((const double *)data)[i];
    }
}

static inline void store(infiniDtype_t dtype, void *data, ptrdiff_t i, double x) {
    switch (dtype) {
    case INFINI_DTYPE_F16:
        ((uint16_t *)data)[i] = to_f16((float)x);
        break;
    case INFINI_DTYPE_BF16:
        ((uint16_t *)data)[i] = to_bf16((float)x);
        break;
    case INFINI_DTYPE_F32:
        ((float *)data)[i] = (float)x;
        break;
    default:
        ((double *)data)[i] = x;
    }
}
