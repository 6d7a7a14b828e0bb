// The handler behind infiniop.jax: XLA calls it, it calls the operator that the attribute `operator` names. handler.py
// compiles it with the table of operators that `infiniop.gen.jax` writes.
//
// XLA's arguments and results stand in any order; the attributes `inputs` and `outputs` say, for each tensor of the
// schema, which argument and which result it is (-1: none).
#pragma once

#include <cstring>
#include <string>

#include <infiniop.hpp>
#include <xla/ffi/api/ffi.h>

namespace infiniop::jax {

namespace ffi = xla::ffi;

// What XLA gave is not what the table expects.
struct BadCall {
    std::string message;
};

inline infiniDtype_t dtype_of(ffi::DataType type) {
    switch (type) {
    case ffi::DataType::PRED:
        return INFINI_DTYPE_BOOL;
    case ffi::DataType::S8:
        return INFINI_DTYPE_I8;
    case ffi::DataType::S16:
        return INFINI_DTYPE_I16;
    case ffi::DataType::S32:
        return INFINI_DTYPE_I32;
    case ffi::DataType::S64:
        return INFINI_DTYPE_I64;
    case ffi::DataType::U8:
        return INFINI_DTYPE_U8;
    case ffi::DataType::U16:
        return INFINI_DTYPE_U16;
    case ffi::DataType::U32:
        return INFINI_DTYPE_U32;
    case ffi::DataType::U64:
        return INFINI_DTYPE_U64;
    case ffi::DataType::F16:
        return INFINI_DTYPE_F16;
    case ffi::DataType::BF16:
        return INFINI_DTYPE_BF16;
    case ffi::DataType::F32:
        return INFINI_DTYPE_F32;
    case ffi::DataType::F64:
        return INFINI_DTYPE_F64;
    case ffi::DataType::F8E4M3FN:
        return INFINI_DTYPE_F8;
    case ffi::DataType::C64:
        return INFINI_DTYPE_C64;
    case ffi::DataType::C128:
        return INFINI_DTYPE_C128;
    default:
        throw BadCall{"XLA's type " + std::to_string(static_cast<int>(type)) + " is not one of infiniop's dtypes"};
    }
}

// One call by XLA, as the schema sees it.
class Call {
public:
    Call(ffi::RemainingArgs args, ffi::RemainingRets results, ffi::Dictionary attrs)
        : args_(args), results_(results), attrs_(attrs), inputs_(array<int64_t>("inputs")),
          outputs_(array<int64_t>("outputs")) {}

    std::string_view operator_name() const { return value(attrs_.get<std::string_view>("operator")); }

    ConstTensor input(size_t index) const {
        if (inputs_[index] < 0) {
            return {};
        }
        const ffi::AnyBuffer buffer = argument(index);
        return {address(buffer), layout(buffer)};
    }
    // Holds what the argument of that name held, where there is one: XLA was told to give both one memory.
    Tensor output(size_t index) const {
        ffi::AnyBuffer buffer = result(index);
        if (inputs_[index] >= 0) {
            const void *before = argument(index).untyped_data();
            if (before != buffer.untyped_data() && buffer.size_bytes()) {
                std::memcpy(buffer.untyped_data(), before, buffer.size_bytes());
            }
        }
        return {address(buffer), layout(buffer)};
    }
    // An output that the operator may leave untouched in places.
    Tensor zeroed(size_t index) const {
        const ffi::AnyBuffer buffer = result(index);
        if (buffer.size_bytes()) {
            std::memset(buffer.untyped_data(), 0, buffer.size_bytes());
        }
        return {address(buffer), layout(buffer)};
    }

    template <class T> T attr(const char *name) const {
        if constexpr (std::is_floating_point_v<T>) {
            return static_cast<T>(value(attrs_.get<double>(name)));
        } else {
            return static_cast<T>(value(attrs_.get<int64_t>(name)));
        }
    }
    template <class T> const T *array(const char *name) const {
        return value(attrs_.get<ffi::Span<const T>>(name)).begin();
    }

private:
    template <class T> static T value(ffi::ErrorOr<T> found) {
        if (!found.has_value()) {
            throw BadCall{found.error().message()};
        }
        return *found;
    }
    ffi::AnyBuffer argument(size_t index) const { return value(args_.get<ffi::AnyBuffer>(inputs_[index])); }
    ffi::AnyBuffer result(size_t index) const { return *value(results_.get<ffi::AnyBuffer>(outputs_[index])); }

    // XLA may give no memory to an array without elements; the operators want an address.
    static void *address(const ffi::AnyBuffer &buffer) {
        static char nothing;
        return buffer.untyped_data() ? buffer.untyped_data() : &nothing;
    }
    static Layout layout(const ffi::AnyBuffer &buffer) {
        return {dtype_of(buffer.element_type()), Shape(buffer.dimensions().begin(), buffer.dimensions().size())};
    }

    ffi::RemainingArgs args_;
    ffi::RemainingRets results_;
    ffi::Dictionary attrs_;
    const int64_t *inputs_, *outputs_;
};

struct Operator {
    const char *name;
    void (*run)(const Call &call);
};

template <size_t Count>
ffi::Error run(const Operator (&operators)[Count], ffi::RemainingArgs args, ffi::RemainingRets results,
               ffi::Dictionary attrs) {
    try {
        const Call call(args, results, attrs);
        const detail::OnDevice here(Device{INFINI_DEVICE_CPU, 0});
        for (const Operator &op : operators) {
            if (call.operator_name() == op.name) {
                op.run(call);
                return ffi::Error::Success();
            }
        }
        return ffi::Error::InvalidArgument("infiniop has no operator " + std::string(call.operator_name()));
    } catch (const Error &error) {
        return ffi::Error::InvalidArgument(error.what());
    } catch (const BadCall &bad) {
        return ffi::Error::Internal(bad.message);
    } catch (const std::exception &error) { // out of memory
        return ffi::Error::Internal(error.what());
    }
}

} // namespace infiniop::jax
