// Views of tensors: a pointer, extents, strides and an element type. They own nothing and cost a few stores.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <utility>

#include "../tensor_descriptor.h"

namespace infiniop {

// Element types that C++17 has no type for, as bits.
struct float16 {
    uint16_t bits;
};
struct bfloat16 {
    uint16_t bits;
};
struct float8_e4m3 {
    uint8_t bits;
};

// The element type of a C++ type. Specialise it for a half type of your own.
template <class T, class = void> struct dtype_of;
template <infiniDtype_t Value> using dtype_constant = std::integral_constant<infiniDtype_t, Value>;
template <> struct dtype_of<float> : dtype_constant<INFINI_DTYPE_F32> {};
template <> struct dtype_of<double> : dtype_constant<INFINI_DTYPE_F64> {};
template <> struct dtype_of<float16> : dtype_constant<INFINI_DTYPE_F16> {};
template <> struct dtype_of<bfloat16> : dtype_constant<INFINI_DTYPE_BF16> {};
template <> struct dtype_of<float8_e4m3> : dtype_constant<INFINI_DTYPE_F8> {};
template <> struct dtype_of<bool> : dtype_constant<INFINI_DTYPE_BOOL> {};
template <> struct dtype_of<std::byte> : dtype_constant<INFINI_DTYPE_BYTE> {};
#ifdef __STDCPP_FLOAT16_T__
template <> struct dtype_of<_Float16> : dtype_constant<INFINI_DTYPE_F16> {};
#endif
#ifdef __STDCPP_BFLOAT16_T__
template <> struct dtype_of<decltype(0.0bf16)> : dtype_constant<INFINI_DTYPE_BF16> {};
#endif

namespace detail {
// The integers of a size, signed and unsigned; `long` and `long long` are both 64 bits on some machines.
constexpr infiniDtype_t integer_dtype(size_t size, bool is_signed) {
    switch (size) {
    case 1:
        return is_signed ? INFINI_DTYPE_I8 : INFINI_DTYPE_U8;
    case 2:
        return is_signed ? INFINI_DTYPE_I16 : INFINI_DTYPE_U16;
    case 4:
        return is_signed ? INFINI_DTYPE_I32 : INFINI_DTYPE_U32;
    default:
        return is_signed ? INFINI_DTYPE_I64 : INFINI_DTYPE_U64;
    }
}
template <class T>
inline constexpr bool is_number =
    std::is_integral_v<T> && !std::is_same_v<T, bool> && !std::is_same_v<T, char> && !std::is_same_v<T, wchar_t> &&
    !std::is_same_v<T, char16_t> && !std::is_same_v<T, char32_t>;
} // namespace detail

template <class T>
struct dtype_of<T, std::enable_if_t<detail::is_number<T>>>
    : dtype_constant<detail::integer_dtype(sizeof(T), std::is_signed_v<T>)> {};

inline constexpr size_t max_rank = 8; // of a view

// Up to `max_rank` integers, from a list, a container or a pointer. A longer one is refused when a call uses it.
template <class Integer> class Dims {
public:
    // Any integer, so that `{batch, 64}` needs no casts.
    struct Item {
        template <class T, class = std::enable_if_t<std::is_integral_v<T>>>
        constexpr Item(T number) : value(static_cast<Integer>(number)) {}
        Integer value;
    };

    constexpr Dims() = default;
    constexpr Dims(std::initializer_list<Item> items) : size_(items.size()) {
        size_t i = 0;
        for (const Item &item : items) {
            if (i < max_rank) {
                values_[i++] = item.value;
            }
        }
    }
    template <class T, class = std::enable_if_t<std::is_integral_v<T>>>
    constexpr Dims(const T *items, size_t size) : size_(size) {
        for (size_t i = 0; i < size && i < max_rank; ++i) {
            values_[i] = static_cast<Integer>(items[i]);
        }
    }
    template <class Container, class = std::enable_if_t<std::is_integral_v<
                                   std::remove_pointer_t<decltype(std::declval<const Container &>().data())>>>>
    constexpr Dims(const Container &items) : Dims(items.data(), items.size()) {}

    constexpr size_t size() const noexcept { return size_; }
    constexpr const Integer *data() const noexcept { return values_.data(); }
    constexpr Integer &operator[](size_t i) noexcept { return values_[i]; }
    constexpr Integer operator[](size_t i) const noexcept { return values_[i]; }

private:
    std::array<Integer, max_rank> values_{};
    size_t size_ = 0;
};

using Shape = Dims<size_t>;
using Strides = Dims<ptrdiff_t>;

// Element type, extents and strides (in elements, signed). A default one stands for a tensor that is not given.
class Layout {
public:
    Layout() = default;
    Layout(infiniDtype_t dtype, const Shape &shape) : dtype_(dtype), shape_(shape), strides_(row_major(shape)) {}
    Layout(infiniDtype_t dtype, const Shape &shape, const Strides &strides)
        : dtype_(dtype), shape_(shape), strides_(strides) {}

    template <class T> static Layout of(const Shape &shape) { return {dtype_of<std::remove_cv_t<T>>::value, shape}; }
    template <class T> static Layout of(const Shape &shape, const Strides &strides) {
        return {dtype_of<std::remove_cv_t<T>>::value, shape, strides};
    }

    bool given() const noexcept { return dtype_ != INFINI_DTYPE_INVALID; }
    infiniDtype_t dtype() const noexcept { return dtype_; }
    size_t rank() const noexcept { return shape_.size(); }
    const Shape &shape() const noexcept { return shape_; }
    const Strides &strides() const noexcept { return strides_; }

private:
    static Strides row_major(const Shape &shape) {
        std::array<ptrdiff_t, max_rank> strides{};
        size_t stride = 1; // wraps around for absurd shapes, which the library refuses
        for (size_t i = shape.size() < max_rank ? shape.size() : max_rank; i-- > 0;) {
            strides[i] = static_cast<ptrdiff_t>(stride);
            stride *= shape[i];
        }
        return {strides.data(), shape.size()};
    }

    infiniDtype_t dtype_ = INFINI_DTYPE_INVALID;
    Shape shape_;
    Strides strides_;
};

// A tensor that is read.
class ConstTensor : public Layout {
public:
    ConstTensor() = default;
    ConstTensor(const void *data, const Layout &layout) : Layout(layout), data_(data) {}
    template <class T, class = std::enable_if_t<!std::is_void_v<T>>>
    ConstTensor(const T *data, const Shape &shape) : Layout(Layout::of<T>(shape)), data_(data) {}
    template <class T, class = std::enable_if_t<!std::is_void_v<T>>>
    ConstTensor(const T *data, const Shape &shape, const Strides &strides)
        : Layout(Layout::of<T>(shape, strides)), data_(data) {}

    const void *data() const noexcept { return data_; }

private:
    const void *data_ = nullptr;
};

// A tensor that may be written as well.
class Tensor : public ConstTensor {
public:
    Tensor() = default;
    Tensor(void *data, const Layout &layout) : ConstTensor(data, layout) {}
    template <class T, class = std::enable_if_t<!std::is_void_v<T> && !std::is_const_v<T>>>
    Tensor(T *data, const Shape &shape) : ConstTensor(data, shape) {}
    template <class T, class = std::enable_if_t<!std::is_void_v<T> && !std::is_const_v<T>>>
    Tensor(T *data, const Shape &shape, const Strides &strides) : ConstTensor(data, shape, strides) {}

    void *data() const noexcept { return const_cast<void *>(ConstTensor::data()); }
};

} // namespace infiniop
