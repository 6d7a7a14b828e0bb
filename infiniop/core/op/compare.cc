#include "compare.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

namespace infini {
namespace {

// Any small binary float: sign, exponent, mantissa, from the top of `bits`.
double small_float(unsigned bits, int exponent_bits, int mantissa_bits) {
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    const unsigned mantissa = bits & ((1u << mantissa_bits) - 1);
    const double sign = (bits >> (exponent_bits + mantissa_bits)) & 1 ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1) {
        return mantissa ? NAN : sign * INFINITY;
    }
    const double fraction = std::ldexp(mantissa, -mantissa_bits);
    return sign * (exponent ? std::ldexp(1 + fraction, exponent - bias) : std::ldexp(fraction, 1 - bias));
}

template <class T> T load(const void *element) {
    T value;
    std::memcpy(&value, element, sizeof value);
    return value;
}

bool is_float(infiniDtype_t dtype) {
    return dtype == INFINI_DTYPE_F16 || dtype == INFINI_DTYPE_BF16 || dtype == INFINI_DTYPE_F32 ||
           dtype == INFINI_DTYPE_F64;
}

double real_value(infiniDtype_t dtype, const void *element) {
    switch (dtype) {
    case INFINI_DTYPE_F16:
        return small_float(load<uint16_t>(element), 5, 10);
    case INFINI_DTYPE_BF16:
        return small_float(load<uint16_t>(element), 8, 7);
    case INFINI_DTYPE_F32:
        return load<float>(element);
    default:
        return load<double>(element);
    }
}

std::string text_of(infiniDtype_t dtype, const void *element) {
    char text[40];
    if (is_float(dtype)) {
        const double value = real_value(dtype, element);
        std::snprintf(text, sizeof text, "%.9g", value);
        return std::isnan(value) ? "nan" : text;
    }
    const bool is_signed = dtype >= INFINI_DTYPE_I8 && dtype <= INFINI_DTYPE_I64;
    switch (element_size(dtype)) {
    case 1:
        return std::to_string(is_signed ? load<int8_t>(element) : load<uint8_t>(element));
    case 2:
        return std::to_string(is_signed ? load<int16_t>(element) : load<uint16_t>(element));
    case 4:
        return is_signed ? std::to_string(load<int32_t>(element)) : std::to_string(load<uint32_t>(element));
    case 8:
        return is_signed ? std::to_string(load<int64_t>(element)) : std::to_string(load<uint64_t>(element));
    }
    return "other bytes";
}

double allowed(Bound bound, double expected) {
    return bound.factor * (bound.scale * bound.tolerance->atol + bound.tolerance->rtol * std::fabs(expected));
}

bool as_good(infiniDtype_t dtype, const char *expected, const char *actual, Bound bound) {
    if (std::memcmp(expected, actual, element_size(dtype)) == 0) {
        return true;
    }
    if (!is_float(dtype)) {
        return false;
    }
    const double a = real_value(dtype, expected), b = real_value(dtype, actual);
    return a == b || (std::isnan(a) && std::isnan(b)) || (bound.tolerance && std::fabs(a - b) <= allowed(bound, a));
}

std::string place(const std::vector<size_t> &at) {
    std::string text;
    for (const size_t i : at) {
        text += (text.empty() ? "" : ", ") + std::to_string(i);
    }
    return "[" + text + "]";
}

// Of the elements that are not the same to the bit, which nobody has written perhaps.
double largest(const infiniopTensorView &view, const char *expected, const char *actual) {
    double most = 1;
    each_element(view, [&](ptrdiff_t offset, const std::vector<size_t> &) {
        if (std::memcmp(expected + offset, actual + offset, element_size(view.dtype)) != 0) {
            const double value = std::fabs(real_value(view.dtype, expected + offset));
            most = std::isfinite(value) ? std::max(most, value) : most;
        }
        return true;
    });
    return most;
}

} // namespace

Bound bound_of(const OperatorSchema &schema, const infiniopTensorView *const *tensors, double factor) {
    for (size_t i = 0; i < schema.ntensors; ++i) {
        if (schema.tensors[i].role == Role::in || !tensors[i]) {
            continue;
        }
        for (size_t t = 0; t < schema.ntolerances; ++t) {
            if (schema.tolerances[t].dtype == tensors[i]->dtype) {
                return {&schema.tolerances[t], factor};
            }
        }
        break;
    }
    return {nullptr, factor};
}

std::string difference(const infiniopTensorView &view, const void *expected, const void *actual, Bound bound) {
    const char *wanted = static_cast<const char *>(expected), *got = static_cast<const char *>(actual);
    if (bound.tolerance && is_float(view.dtype)) {
        bound.scale = largest(view, wanted, got);
    }
    size_t all = 0, wrong = 0;
    ptrdiff_t first = 0;
    std::vector<size_t> where;
    each_element(view, [&](ptrdiff_t offset, const std::vector<size_t> &at) {
        ++all;
        if (!as_good(view.dtype, wanted + offset, got + offset, bound) && wrong++ == 0) {
            first = offset;
            where = at;
        }
        return true;
    });
    if (!wrong) {
        return {};
    }
    std::string text = std::to_string(wrong) + " of " + std::to_string(all) + " elements differ, the first at " +
                       place(where) + ": expected " + text_of(view.dtype, wanted + first) + ", got " +
                       text_of(view.dtype, got + first);
    if (is_float(view.dtype) && bound.tolerance) {
        char limit[40];
        std::snprintf(limit, sizeof limit, "%.3g", allowed(bound, real_value(view.dtype, wanted + first)));
        text += std::string(", allowed difference ") + limit;
    }
    return text;
}

} // namespace infini
