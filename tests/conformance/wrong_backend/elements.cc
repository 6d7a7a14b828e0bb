// Dtypes, views and the list of faults.
#include "wrong.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace wrong {

// ---- faults ---------------------------------------------------------------------------------------------------

const Fault *Fault::first = nullptr;
std::atomic<const Fault *> Fault::chosen{nullptr};
std::string Fault::chosen_op;

Fault::Fault(const char *op, const char *name, const char *what, Seen seen)
    : op(op), name(name), what(what), seen(seen), next(first) {
    first = this;
}

void Fault::choose() {
    static std::atomic_flag busy = ATOMIC_FLAG_INIT; // create may run on many threads
    while (busy.test_and_set(std::memory_order_acquire)) {
    }
    const char *given = std::getenv("WRONG_BACKEND_FAULT");
    const std::string text = given ? given : "";
    const size_t slash = text.find('/');
    const std::string op = text.substr(0, slash), name = slash == std::string::npos ? "" : text.substr(slash + 1);
    const Fault *found = nullptr;
    for (const Fault *f = first; f; f = f->next) {
        if (name == f->name && (op == f->op || !std::strcmp(f->op, "*"))) {
            found = f;
        }
    }
    if (chosen_op != op) {
        chosen = nullptr;
        chosen_op = op;
    }
    chosen = found;
    busy.clear(std::memory_order_release);
}

// ---- elements -------------------------------------------------------------------------------------------------

size_t size_of(infiniDtype_t dtype) {
    switch (dtype) {
    case INFINI_DTYPE_F16:
    case INFINI_DTYPE_BF16:
        return 2;
    case INFINI_DTYPE_F32:
    case INFINI_DTYPE_I32:
    case INFINI_DTYPE_U32:
        return 4;
    default:
        return 8;
    }
}

bool is_integer(infiniDtype_t dtype) {
    return dtype == INFINI_DTYPE_I32 || dtype == INFINI_DTYPE_U32 || dtype == INFINI_DTYPE_I64 ||
           dtype == INFINI_DTYPE_U64;
}

namespace {

template <class T> T read(const char *from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class T> void write(char *to, T value) { std::memcpy(to, &value, sizeof value); }

struct Half {
    int digits, least, most; // of the significand; smallest and largest exponent
    int mantissa;            // stored bits
};
constexpr Half f16{11, -14, 15, 10}, bf16{8, -126, 127, 7};

double widen(Half h, uint16_t bits) {
    const int stored = (bits & 0x7fff) >> h.mantissa, fraction = bits & ((1 << h.mantissa) - 1);
    const int special = h.most * 2 + 1;
    double value;
    if (stored == special) {
        value = fraction ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
    } else if (stored == 0) {
        value = std::ldexp(fraction, h.least - h.mantissa);
    } else {
        value = std::ldexp(fraction + (1 << h.mantissa), stored - h.most - h.mantissa);
    }
    return bits & 0x8000 ? -value : value;
}

double integral(double x, Rounding how) {
    switch (how) {
    case Rounding::truncate:
        return std::floor(x);
    case Rounding::ties_away:
        return std::floor(x + 0.5);
    default:
        return std::nearbyint(x);
    }
}

uint16_t narrow(Half h, double value, Rounding how) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const uint16_t infinity = uint16_t((h.most * 2 + 1) << h.mantissa);
    const double size = std::fabs(value);
    if (std::isnan(size)) {
        return uint16_t(sign | infinity | 1 << (h.mantissa - 1));
    }
    if (std::isinf(size)) {
        return sign | infinity;
    }
    int exponent;
    std::frexp(size, &exponent);
    if (size == 0 || (how == Rounding::flush && exponent - 1 < h.least)) {
        return sign;
    }
    const int scale = std::max(exponent - 1, h.least) - h.mantissa;
    const double units =
        integral(std::ldexp(size, -scale), how); // 2^mantissa <= units <= 2^(mantissa + 1), or subnormal
    const double bits = std::ldexp(double(scale + h.mantissa - h.least), h.mantissa) + units;
    if (bits >= infinity) {
        return sign | uint16_t(infinity - (how == Rounding::saturate));
    }
    return uint16_t(sign | uint16_t(bits));
}

} // namespace

double get(infiniDtype_t dtype, const char *from) {
    switch (dtype) {
    case INFINI_DTYPE_F16:
        return widen(f16, read<uint16_t>(from));
    case INFINI_DTYPE_BF16:
        return widen(bf16, read<uint16_t>(from));
    case INFINI_DTYPE_F32:
        return double(read<float>(from));
    case INFINI_DTYPE_F64:
        return read<double>(from);
    default:
        return double(get_integer(dtype, from));
    }
}

int64_t get_integer(infiniDtype_t dtype, const char *from) {
    switch (dtype) {
    case INFINI_DTYPE_I32:
        return read<int32_t>(from);
    case INFINI_DTYPE_U32:
        return read<uint32_t>(from);
    default:
        return read<int64_t>(from);
    }
}

void put_rounded(infiniDtype_t dtype, char *to, double value, Rounding how) {
    switch (dtype) {
    case INFINI_DTYPE_F16:
        return write(to, narrow(f16, value, how));
    case INFINI_DTYPE_BF16:
        return write(to, narrow(bf16, value, how));
    case INFINI_DTYPE_F32:
        return write(to, float(value));
    default:
        return write(to, value);
    }
}

void put(infiniDtype_t dtype, char *to, double value) { put_rounded(dtype, to, value, Rounding::nearest_even); }

void put_integer(infiniDtype_t dtype, char *to, int64_t value) {
    size_of(dtype) == 4 ? write(to, int32_t(value)) : write(to, value);
}

double round_to(infiniDtype_t dtype, double value) {
    char room[8];
    put(dtype, room, value);
    return get(dtype, room);
}

// ---- views ----------------------------------------------------------------------------------------------------

size_t View::count() const {
    size_t n = 1;
    for (size_t extent : shape) {
        n *= extent;
    }
    return n;
}

ptrdiff_t View::low() const {
    ptrdiff_t sum = 0;
    for (size_t i = 0; i < rank(); i++) {
        sum += std::min<ptrdiff_t>(0, strides[i] * ptrdiff_t(shape[i] - 1));
    }
    return sum;
}

ptrdiff_t View::high() const {
    ptrdiff_t sum = 0;
    for (size_t i = 0; i < rank(); i++) {
        sum += std::max<ptrdiff_t>(0, strides[i] * ptrdiff_t(shape[i] - 1));
    }
    return sum;
}

ptrdiff_t View::offset(size_t index) const {
    ptrdiff_t sum = 0;
    for (size_t i = rank(); i-- > 0; index /= shape[i]) {
        sum += ptrdiff_t(index % shape[i]) * strides[i];
    }
    return sum;
}

ptrdiff_t View::clamp(ptrdiff_t offset) const { return std::min(std::max(offset, low()), high()); }

View View::row_major() const {
    View view = *this;
    ptrdiff_t step = 1;
    for (size_t i = rank(); i-- > 0; step *= ptrdiff_t(shape[i])) {
        view.strides[i] = step;
    }
    return view;
}

} // namespace wrong
