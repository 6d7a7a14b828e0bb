// What kernel files of the built-in backends see, whatever they compute on: errors, calls, registration. A kernel file
// is
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

#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>
#include <vector>

#include "element.h"
#include "infiniop/backend.h"

// The linker's names for the ends of the section that kernel files put their tables in.
extern "C" const infiniopKernel *const __start_infiniop_kernels[];
extern "C" const infiniopKernel *const __stop_infiniop_kernels[];

namespace infiniop::backend {

using Status = infiniStatus_t;

inline const infiniopHost *host = nullptr; // set once, before any kernel runs

// ---- errors ---------------------------------------------------------------------------------------------------

// A short formatted string on the stack.
struct Text {
    char s[160];
    [[gnu::format(printf, 2, 3)]] explicit Text(const char *format, ...) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(s, sizeof(s), format, arguments);
        va_end(arguments);
    }
    operator const char *() const { return s; }
};

// Leaves the message for the calling thread; returns status.
inline Status fail(Status status, const char *op, const char *argument, const char *expected, const char *got) {
    const infiniopError error = {sizeof(error), status, op, argument, expected, got, nullptr};
    host->set_error(&error);
    return status;
}

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
    infinirtStream_t stream() const { return run_.stream; }
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

// Every kernel of the library. The compiler may align an array in the section, which leaves gaps of zeros.
inline std::vector<const infiniopKernel *> collect_kernels() {
    std::vector<const infiniopKernel *> kernels;
    for (auto at = __start_infiniop_kernels; at != __stop_infiniop_kernels; at++) {
        if (*at) {
            kernels.push_back(*at);
        }
    }
    return kernels;
}

// ---- dtypes ---------------------------------------------------------------------------------------------------

// Bytes of one element; 0 for an unknown dtype.
inline size_t element_size(infiniDtype_t dtype) {
    switch (dtype) {
    case INFINI_DTYPE_BYTE:
    case INFINI_DTYPE_BOOL:
    case INFINI_DTYPE_I8:
    case INFINI_DTYPE_U8:
    case INFINI_DTYPE_F8:
        return 1;
    case INFINI_DTYPE_I16:
    case INFINI_DTYPE_U16:
    case INFINI_DTYPE_F16:
    case INFINI_DTYPE_BF16:
    case INFINI_DTYPE_C16:
        return 2;
    case INFINI_DTYPE_I32:
    case INFINI_DTYPE_U32:
    case INFINI_DTYPE_F32:
    case INFINI_DTYPE_C32:
        return 4;
    case INFINI_DTYPE_I64:
    case INFINI_DTYPE_U64:
    case INFINI_DTYPE_F64:
    case INFINI_DTYPE_C64:
        return 8;
    case INFINI_DTYPE_C128:
        return 16;
    default:
        return 0;
    }
}

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

} // namespace infiniop::backend
