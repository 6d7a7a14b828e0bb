// What a kernel file of the CPU backend sees: errors, calls, dtypes, registration. A kernel file is
//
//     struct State {
//         static Status create(const Call &call, State &state, size_t &workspace);
//         Status calculate(const Run &run) const;
//     };
//     constexpr infiniopKernel kernel = make_kernel<State>(schema::rms_norm::op, schema::rms_norm::version);
//     [[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;
//
// and needs no list anywhere: the linker collects the section.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "infiniop/backend.h"

namespace infiniop::cpu {

using Status = infiniStatus_t;

extern const infiniopHost *host; // set once, before any kernel runs

// ---- errors ---------------------------------------------------------------------------------------------------

// A short formatted string on the stack.
struct Text {
    char s[160];
    [[gnu::format(printf, 2, 3)]] explicit Text(const char *format, ...);
    operator const char *() const { return s; }
};

// Leaves the message for the calling thread; returns status.
Status fail(Status status, const char *op, const char *argument, const char *expected, const char *got);

// ---- what create and calculate get ----------------------------------------------------------------------------

class Call {
public:
    explicit Call(const infiniopCall &call) : call_(call) {}
    const char *op() const { return call_.op; }
    size_t tensor_count() const { return call_.ntensors; }
    bool has(size_t tensor) const { return tensor < call_.ntensors && call_.tensors[tensor]; }
    const infiniopTensorView &tensor(size_t i) const { return *call_.tensors[i]; }
    infiniDtype_t dtype(size_t tensor) const { return call_.tensors[tensor]->dtype; }
    size_t rank(size_t tensor) const { return call_.tensors[tensor]->ndim; }
    size_t dim(size_t tensor, size_t axis) const { return call_.tensors[tensor]->shape[axis]; }
    ptrdiff_t stride(size_t tensor, size_t axis) const { return call_.tensors[tensor]->strides[axis]; }
    size_t last_dim(size_t tensor) const { return dim(tensor, rank(tensor) - 1); }
    ptrdiff_t last_stride(size_t tensor) const { return stride(tensor, rank(tensor) - 1); }
    int64_t integer(size_t attr) const { return call_.attrs[attr].i; }
    double real(size_t attr) const { return call_.attrs[attr].f; }
    const infiniopCall &raw() const { return call_; }

private:
    const infiniopCall &call_;
};

class Run {
public:
    explicit Run(const infiniopRun &run) : run_(run) {}
    template <class T> T *data(size_t tensor) const { return static_cast<T *>(run_.data[tensor]); }
    bool has(size_t tensor) const { return run_.data[tensor] != nullptr; }
    template <class T> T *workspace() const { return static_cast<T *>(run_.workspace); }
    int64_t integer(size_t attr) const { return run_.attrs[attr].i; }
    double real(size_t attr) const { return run_.attrs[attr].f; }
    template <class T> const T *array(size_t attr) const { return static_cast<const T *>(run_.attrs[attr].p); }

private:
    const infiniopRun &run_;
};

// ---- registration ---------------------------------------------------------------------------------------------

template <class State> struct Trampolines {
    static Status create(void *, const infiniopCall *raw, void **out, size_t *workspace) {
        void *memory = host->alloc(sizeof(State), alignof(State));
        const Call call(*raw);
        if (!memory) {
            return fail(INFINI_STATUS_INTERNAL_ERROR, call.op(), nullptr, "memory for a descriptor", "none");
        }
        State *state = new (memory) State();
        size_t bytes = 0;
        const Status status = create_state(call, *state, bytes);
        if (status != INFINI_STATUS_SUCCESS) {
            destroy(state);
            return status;
        }
        *out = state;
        *workspace = bytes;
        return status;
    }

    static Status calculate(void *state, const infiniopRun *run) {
        return static_cast<const State *>(state)->calculate(Run(*run));
    }

    static void destroy(void *state) {
        static_cast<State *>(state)->~State();
        host->free(state);
    }

private:
    // A state may hold containers: no exception crosses the plugin boundary.
    static Status create_state(const Call &call, State &state, size_t &bytes) {
        try {
            return State::create(call, state, bytes);
        } catch (...) {
            return fail(INFINI_STATUS_INTERNAL_ERROR, call.op(), nullptr, "memory for a descriptor", "none");
        }
    }
};

using Supports = Status(void *ctx, const infiniopCall *call);

template <class State>
constexpr infiniopKernel make_kernel(const char *op, uint32_t schema_version, Supports *supports = nullptr) {
    using T = Trampolines<State>;
    return {sizeof(infiniopKernel), op, schema_version, supports, T::create, T::calculate, T::destroy, nullptr};
}

// ---- element types --------------------------------------------------------------------------------------------

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

// Half types compute in f32.
template <class T> struct ComputeType {
    using type = T;
};
template <> struct ComputeType<f16> {
    using type = float;
};
template <> struct ComputeType<bf16> {
    using type = float;
};
template <class T> using compute_t = typename ComputeType<T>::type;

template <class T> struct Type {
    using type = T;
};

inline Status unsupported_dtype() {
    return fail(INFINI_STATUS_BAD_TENSOR_DTYPE, nullptr, nullptr, "a dtype of the operator's schema", "another");
}

// Call f(Type<T>{}) with the C++ type of a dtype; f returns Status. `auto tag`, then `typename decltype(tag)::type`.
template <class F> Status visit_float(infiniDtype_t dtype, F &&f) {
    switch (dtype) {
    case INFINI_DTYPE_F16:
        return f(Type<f16>{});
    case INFINI_DTYPE_BF16:
        return f(Type<bf16>{});
    case INFINI_DTYPE_F32:
        return f(Type<float>{});
    default:
        return unsupported_dtype();
    }
}

template <class F> Status visit_float64(infiniDtype_t dtype, F &&f) {
    return dtype == INFINI_DTYPE_F64 ? f(Type<double>{}) : visit_float(dtype, f);
}

template <class F> Status visit_integer(infiniDtype_t dtype, F &&f) {
    switch (dtype) {
    case INFINI_DTYPE_I8:
        return f(Type<int8_t>{});
    case INFINI_DTYPE_I16:
        return f(Type<int16_t>{});
    case INFINI_DTYPE_I32:
        return f(Type<int32_t>{});
    case INFINI_DTYPE_I64:
        return f(Type<int64_t>{});
    case INFINI_DTYPE_U8:
        return f(Type<uint8_t>{});
    case INFINI_DTYPE_U16:
        return f(Type<uint16_t>{});
    case INFINI_DTYPE_U32:
        return f(Type<uint32_t>{});
    case INFINI_DTYPE_U64:
        return f(Type<uint64_t>{});
    default:
        return unsupported_dtype();
    }
}

// Bytes of one element; 0 for an unknown dtype.
size_t element_size(infiniDtype_t dtype);

} // namespace infiniop::cpu
