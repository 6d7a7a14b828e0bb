// exp, log, gelu of vectors. f32: but for gelu about 1–2 units in the last place, exact at infinities and NaN,
// subnormal results included; polynomials are minimax fits of our own. f64: the C library, lane by lane.
#pragma once

#include <cmath>
#include <limits>

#include "simd.h"

namespace infiniop::cpu {

using std::log; // of one number, beside the vectors' below

namespace detail {
// c0 + c1·x + c2·x² + …
template <class V> V polynomial(V, float c0) { return splat<V>(c0); }
template <class V, class... Rest> V polynomial(V x, float c0, Rest... rest) { return polynomial(x, rest...) * x + c0; }

// 2ⁿ for whole n in -126 … 127.
inline vf power_of_two(vi n) { return bit_cast<vf>((n + 127) << 23); }

// x rounded to a whole number, |x| < 2²².
inline vf round_small(vf x) {
    constexpr float magic = 0x1.8p23f;
    return (x + magic) - magic;
}

template <class F> vd lanewise(vd x, F &&f) {
    for (size_t i = 0; i < lanes<double>; i++) {
        x[i] = f(x[i]);
    }
    return x;
}
} // namespace detail

inline vf exp(vf x) {
    constexpr float log2e = 0x1.715476p+0f, ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    const vf bounded = max(splat<vf>(-104.0f), min(splat<vf>(89.0f), x)); // in this order NaN stays
#if defined(__AVX512F__)
    constexpr float sixteenths = 0x1.8p19f; // adding it rounds to a sixteenth; the low four bits tell which
    const vf shifted = bounded * log2e + sixteenths, n = shifted - sixteenths;
    const vf r = (bounded - n * ln2_high) - n * ln2_low;
    const vf roots = {0x1p+0f,        0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f, 0x1.306fep+0f,  0x1.3dea64p+0f,
                      0x1.4bfdaep+0f, 0x1.5ab07ep+0f, 0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f, 0x1.9c4918p+0f,
                      0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f}; // 2^(i / 16)
    const vf root = (vf)_mm512_maskz_permutexvar_ps(0xffff, (__m512i)shifted, (__m512)roots);
    const vf p = root + root * r * detail::polynomial(r, 1.0f, 0.50001615f, 0.16666667f);
    return (vf)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n); // rounds n down
#else
    constexpr float whole_numbers = 0x1.8p23f; // adding it rounds to a whole number, which stands in the low bits
    const vf shifted = bounded * log2e + whole_numbers, n = shifted - whole_numbers;
    const vf r = (bounded - n * ln2_high) - n * ln2_low;
    const vf tail = detail::polynomial(r, 0.5f, 0.16666666f, 0.041666295f, 0.0083334973f, 0.0013944689f, 0.0001979031f);
    const vf p = r * r * tail + r + 1.0f;
    const vi whole = bit_cast<vi>(shifted) - bit_cast<int32_t>(whole_numbers), half = whole >> 1;
    return p * detail::power_of_two(half) *
           detail::power_of_two(whole - half); // two factors reach subnormals, infinity
#endif
}

inline vf log(vf x) {
    constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    const vf infinity = splat<vf>(std::numeric_limits<float>::infinity());
    const vi tiny = x < 0x1p-126f;
    const vf scaled = tiny ? x * 0x1p23f : x;
    const vi bits = bit_cast<vi>(scaled) - 0x3f3504f3; // sqrt(1/2): the mantissa lies in [sqrt(1/2), sqrt(2))
    const vi exponent = (bits >> 23) - (tiny & 23);
    const vf m = bit_cast<vf>((bits & 0x7fffff) + 0x3f3504f3);
    const vf f = m - 1.0f, e = __builtin_convertvector(exponent, vf);
    const vf tail = detail::polynomial(f, 0.33333313f, -0.2500001f, 0.20002119f, -0.16667996f, 0.14219552f,
                                       -0.12405589f, 0.11888162f, -0.1167565f, 0.06746641f);
    const vf square = f * f;
    vf y = e * ln2_high + (f + (e * ln2_low + (square * f * tail - 0.5f * square)));
    y = x == infinity ? infinity : y;
    y = x == 0.0f ? -infinity : y;
    return (x < 0.0f) | (x != x) ? splat<vf>(std::numeric_limits<float>::quiet_NaN()) : y;
}

inline vf abs(vf x) { return bit_cast<vf>(bit_cast<vu>(x) & 0x7fffffffu); }

// x Φ(x) = max(x, 0) - |x| Φ(-|x|), absolute error below 2e-7; the polynomial is the eighth root of Φ(-a). As the
// formula does, minus infinity gives NaN.
inline vf gelu(vf x) {
    const vf a = min(abs(x), splat<vf>(6.0f));
    const vf root = detail::polynomial(a, 0.91700405f, -0.091457754f, -0.031926837f, -0.00067409035f, 0.0015063598f,
                                       3.3226614e-05f, -5.993268e-05f, 7.427486e-06f, -2.924831e-07f);
    const vf square = root * root, fourth = square * square;
    const vf y = max(vf{}, x) - a * (fourth * fourth);
    constexpr float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    return x == -infinity ? splat<vf>(nan) : y;
}

inline vd exp(vd x) {
    return detail::lanewise(x, [](double v) { return std::exp(v); });
}
inline vd log(vd x) {
    return detail::lanewise(x, [](double v) { return std::log(v); });
}
inline vd gelu(vd x) {
    return detail::lanewise(x, [](double v) { return 0.5 * v * (1.0 + std::erf(v * 0.70710678118654752440)); });
}

template <class V> V sigmoid(V x) { return 1.0f / (1.0f + exp(-x)); }
template <class V> V silu(V x) { return x / (1.0f + exp(-x)); }

} // namespace infiniop::cpu
