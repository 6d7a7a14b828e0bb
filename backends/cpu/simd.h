// Vectors of f32 and f64 by GCC vector extensions; width by instruction set. Loads and stores are unaligned and convert
// from and to the storage type, rounding to nearest even.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace infiniop::cpu {

#if defined(__AVX512F__)
constexpr size_t vector_bytes = 64;
#elif defined(__AVX2__)
constexpr size_t vector_bytes = 32;
#else
constexpr size_t vector_bytes = 16;
#endif

template <class C> struct VectorOf;
template <> struct VectorOf<float> {
    typedef float type __attribute__((vector_size(vector_bytes)));
    typedef int32_t mask __attribute__((vector_size(vector_bytes)));
    typedef uint32_t bits __attribute__((vector_size(vector_bytes)));
    typedef uint16_t halves __attribute__((vector_size(vector_bytes / 2)));
};
template <> struct VectorOf<double> {
    typedef double type __attribute__((vector_size(vector_bytes)));
    typedef int64_t mask __attribute__((vector_size(vector_bytes)));
    typedef uint64_t bits __attribute__((vector_size(vector_bytes)));
};

using vf = VectorOf<float>::type;
using vi = VectorOf<float>::mask;
using vu = VectorOf<float>::bits;
using vh = VectorOf<float>::halves;
using vd = VectorOf<double>::type;

// The vector in which elements stored as T are computed, and its number of lanes.
template <class T> using vector_t = typename VectorOf<compute_t<T>>::type;
template <class T> constexpr size_t lanes = vector_bytes / sizeof(compute_t<T>);

template <class V> V splat(decltype(V{}[0] + V{}[0]) value) { return value - V{}; }

// Same bits, other type.
template <class To, class From> To bit_cast(const From &from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(to));
    return to;
}

// ---- conversions ----------------------------------------------------------------------------------------------

// Between 16 and 32 bits; what is narrowed fits. By hand where the compiler takes several steps.
#if defined(__AVX512F__)
inline vu extend(vh h) { return (vu)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)h); }
inline vh truncate(vu x) { return (vh)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)x); }
#elif defined(__AVX2__)
inline vu extend(vh h) { return (vu)_mm256_cvtepu16_epi32((__m128i)h); }
inline vh truncate(vu x) {
    return (vh)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
}
#else
inline vu extend(vh h) { return __builtin_convertvector(h, vu); }
inline vh truncate(vu x) { return __builtin_convertvector(x, vh); }
#endif

inline vf widen(vh h, bf16) { return bit_cast<vf>(extend(h) << 16); }

#if defined(__AVX512BF16__)
inline vh narrow(vf v, bf16) { return bit_cast<vh>(_mm512_cvtneps_pbh((__m512)v)); } // subnormal results become 0
#else
inline vh narrow(vf v, bf16) {
    const vu x = bit_cast<vu>(v);
    const vu rounded = x + 0x7fffu + ((x >> 16) & 1u);
    const vu quiet = x | 0x400000u;
    return truncate((vu)(v != v ? quiet : rounded) >> 16);
}
#endif

#if defined(__AVX512F__)
inline vf widen(vh h, f16) { return (vf)_mm512_maskz_cvtph_ps(0xffff, (__m256i)h); }
inline vh narrow(vf v, f16) {
    return (vh)_mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__AVX2__) && defined(__F16C__)
inline vf widen(vh h, f16) { return (vf)_mm256_cvtph_ps((__m128i)h); }
inline vh narrow(vf v, f16) { return (vh)_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
#else
inline vf widen(vh h, f16) {
    const vu x = extend(h);
    const vu magnitude = (x & 0x7fffu) << 13;
    const vu finite = bit_cast<vu>(bit_cast<vf>(magnitude) * 0x1p112f); // moves the exponent; subnormals come out right
    const vu special = magnitude | 0x7f800000u;
    return bit_cast<vf>((vu)((x & 0x7c00u) == 0x7c00u ? special : finite) | ((x & 0x8000u) << 16));
}
inline vh narrow(vf v, f16) {
    const vu x = bit_cast<vu>(v), magnitude = x & 0x7fffffffu;
    const vu normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
    const vu subnormal = bit_cast<vu>(bit_cast<vf>(magnitude) + 0.5f) - 0x3f000000u; // the addition rounds
    vu half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x47800000u ? (half & 0u) + 0x7c00u : half;
    half = magnitude > 0x7f800000u ? ((magnitude >> 13) & 0x3ffu) | 0x7e00u : half;
    return truncate(half | ((x >> 16) & 0x8000u));
}
#endif

// ---- loads and stores -----------------------------------------------------------------------------------------

// How many lanes of a vector are meant: all of them, or the first n (fewer than all).
struct All {};
struct First {
    size_t n;
};

namespace detail {
// Copies bytes < 2·step, a multiple of 2.
template <size_t step> void copy_small(char *dst, const char *src, size_t bytes) {
    if (bytes & step) {
        std::memcpy(dst, src, step);
    }
    if constexpr (step > 2) {
        copy_small<step / 2>(dst + (bytes & step), src + (bytes & step), bytes);
    }
}

// The first n < 64 bits.
constexpr uint64_t lane_mask(size_t n) { return (uint64_t{1} << n) - 1; }

template <class V, class T> V load_bits(const T *p, All) {
    V v;
    std::memcpy(&v, p, sizeof(v));
    return v;
}
template <class V, class T> V load_bits(const T *p, First part) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    const uint64_t lanes = lane_mask(part.n);
    if constexpr (sizeof(V) == 64 && sizeof(T) == 4) {
        return (V)_mm512_maskz_loadu_epi32(__mmask16(lanes), p);
    } else if constexpr (sizeof(V) == 64 && sizeof(T) == 2) {
        return (V)_mm512_maskz_loadu_epi16(__mmask32(lanes), p);
    } else if constexpr (sizeof(V) == 32 && sizeof(T) == 2) {
        return (V)_mm256_maskz_loadu_epi16(__mmask16(lanes), p);
    }
#endif
    V v = {};
    copy_small<sizeof(V) / 2>(reinterpret_cast<char *>(&v), reinterpret_cast<const char *>(p), part.n * sizeof(T));
    return v;
}
template <class V, class T> void store_bits(T *p, V v, All) { std::memcpy(p, &v, sizeof(v)); }
template <class V, class T> void store_bits(T *p, V v, First part) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    const uint64_t lanes = lane_mask(part.n);
    if constexpr (sizeof(V) == 64 && sizeof(T) == 4) {
        return _mm512_mask_storeu_epi32(p, __mmask16(lanes), (__m512i)v);
    } else if constexpr (sizeof(V) == 64 && sizeof(T) == 2) {
        return _mm512_mask_storeu_epi16(p, __mmask32(lanes), (__m512i)v);
    } else if constexpr (sizeof(V) == 32 && sizeof(T) == 2) {
        return _mm256_mask_storeu_epi16(p, __mmask16(lanes), (__m256i)v);
    }
#endif
    copy_small<sizeof(V) / 2>(reinterpret_cast<char *>(p), reinterpret_cast<const char *>(&v), part.n * sizeof(T));
}
} // namespace detail

// Lanes beyond `First` come as 0.
template <class Part = All> vf load(const float *p, Part part = {}) { return detail::load_bits<vf>(p, part); }
template <class Part = All> vd load(const double *p, Part part = {}) { return detail::load_bits<vd>(p, part); }
template <class Part = All> vf load(const f16 *p, Part part = {}) {
    return widen(detail::load_bits<vh>(p, part), f16{});
}
template <class Part = All> vf load(const bf16 *p, Part part = {}) {
    return widen(detail::load_bits<vh>(p, part), bf16{});
}

template <class Part = All> void store(float *p, vf v, Part part = {}) { detail::store_bits(p, v, part); }
template <class Part = All> void store(double *p, vd v, Part part = {}) { detail::store_bits(p, v, part); }
template <class Part = All> void store(f16 *p, vf v, Part part = {}) { detail::store_bits(p, narrow(v, f16{}), part); }
template <class Part = All> void store(bf16 *p, vf v, Part part = {}) {
    detail::store_bits(p, narrow(v, bf16{}), part);
}

// Whole vectors written past the caches, to addresses aligned to what is written. stream_fence() before anybody else
// reads them.
namespace detail {
template <class V> void stream_bits(void *p, V v) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) {
        return _mm512_stream_si512(static_cast<__m512i *>(p), (__m512i)v);
    }
#endif
#if defined(__AVX__)
    if constexpr (sizeof(V) == 32) {
        return _mm256_stream_si256(static_cast<__m256i *>(p), (__m256i)v);
    }
#endif
#if defined(__SSE2__) && defined(__x86_64__)
    if constexpr (sizeof(V) == 16) {
        return _mm_stream_si128(static_cast<__m128i *>(p), (__m128i)v);
    } else if constexpr (sizeof(V) == 8) {
        return _mm_stream_si64(static_cast<long long *>(p), bit_cast<long long>(v));
    }
#endif
    std::memcpy(p, &v, sizeof(v));
}
} // namespace detail

inline void stream(float *p, vf v) { detail::stream_bits(p, v); }
inline void stream(double *p, vd v) { detail::stream_bits(p, v); }
inline void stream(f16 *p, vf v) { detail::stream_bits(p, narrow(v, f16{})); }
inline void stream(bf16 *p, vf v) { detail::stream_bits(p, narrow(v, bf16{})); }

inline void stream_fence() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

// Calls f(i, part) for i = 0, L, 2L … below n; part is All, and First for the rest.
template <size_t L, class F> void for_vectors(size_t n, F &&f) {
    size_t i = 0;
    for (; i + L <= n; i += L) {
        f(i, All{});
    }
    if (i < n) {
        f(i, First{n - i});
    }
}

// Scalars.
inline float get(float x) { return x; }
inline double get(double x) { return x; }
inline float get(bf16 x) { return bit_cast<float>(uint32_t(x.bits) << 16); }
float get(f16 x);
template <class T> T put(compute_t<T> x);
template <> inline float put<float>(float x) { return x; }
template <> inline double put<double>(double x) { return x; }
template <> inline bf16 put<bf16>(float x) { return {narrow(splat<vf>(x), bf16{})[0]}; }
template <> inline f16 put<f16>(float x) { return {narrow(splat<vf>(x), f16{})[0]}; }
inline float get(f16 x) {
    vh h = {};
    h[0] = x.bits;
    return widen(h, f16{})[0];
}

// ---- across lanes ---------------------------------------------------------------------------------------------

template <class V> auto sum(V v) {
    constexpr size_t n = sizeof(V) / sizeof(v[0]);
    if constexpr (n == 2) {
        return v[0] + v[1];
    } else {
        typedef __typeof__(v[0] + v[0]) Half __attribute__((vector_size(sizeof(V) / 2)));
        Half parts[2];
        std::memcpy(parts, &v, sizeof(v));
        return sum(parts[0] + parts[1]);
    }
}

// NaN in any lane is not promised to win.
template <class V> auto max_lane(V v) {
    constexpr size_t n = sizeof(V) / sizeof(v[0]);
    if constexpr (n == 2) {
        return v[0] > v[1] ? v[0] : v[1];
    } else {
        typedef __typeof__(v[0] + v[0]) Half __attribute__((vector_size(sizeof(V) / 2)));
        Half parts[2];
        std::memcpy(parts, &v, sizeof(v));
        return max_lane((Half)(parts[0] > parts[1] ? parts[0] : parts[1]));
    }
}

// Whether any bit is set.
template <class V> bool any(V mask) {
    uint64_t words[sizeof(V) / 8], all = 0;
    std::memcpy(words, &mask, sizeof(mask));
    for (uint64_t word : words) {
        all |= word;
    }
    return all != 0;
}
#if defined(__AVX512F__)
inline bool any(vi mask) { return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0; }
#elif defined(__AVX2__)
inline bool any(vi mask) { return !_mm256_testz_si256((__m256i)mask, (__m256i)mask); }
#endif

// b where one of them is NaN.
template <class V> V max(V a, V b) { return a > b ? a : b; }
template <class V> V min(V a, V b) { return a < b ? a : b; }
#if defined(__AVX512F__)
inline vf max(vf a, vf b) { return (vf)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b); }
inline vf min(vf a, vf b) { return (vf)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b); }
#elif defined(__AVX2__)
inline vf max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
inline vf min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#endif

namespace detail {
template <class V, size_t n = sizeof(V) / sizeof(V{}[0])> decltype(V{} < V{}) lane_numbers() {
    decltype(V{} < V{}) v = {};
    for (size_t i = 0; i < n; i++) {
        v[i] = i;
    }
    return v;
}
} // namespace detail

// The first n lanes of v, `other` in the rest.
template <class V> V keep(V v, All, V) { return v; }
template <class V> V keep(V v, First part, V other) {
    using Mask = decltype(v < v);
    const Mask n = Mask{} + decltype(Mask{}[0] + Mask{}[0])(part.n);
    return detail::lane_numbers<V>() < n ? v : other;
}

} // namespace infiniop::cpu
