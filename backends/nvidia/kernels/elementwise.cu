// The elementwise family: c = f(a) and c = f(a, b) on tensors of one shape; silu_and_mul is swiglu on two halves.
#include "../device.cuh"
#include "../layout.h"

#include "infiniop/schema/add.h"
#include "infiniop/schema/gelu.h"
#include "infiniop/schema/mul.h"
#include "infiniop/schema/relu.h"
#include "infiniop/schema/sigmoid.h"
#include "infiniop/schema/silu.h"
#include "infiniop/schema/silu_and_mul.h"
#include "infiniop/schema/sub.h"
#include "infiniop/schema/swiglu.h"

namespace infiniop::nvidia {
namespace {

// Which one is a kernel argument: the branch costs nothing beside the memory, and an operator no kernels of its own.
enum class Function { add, sub, mul, swiglu, relu, sigmoid, silu, gelu };

template <class C> __device__ __forceinline__ C silu(C x) { return x / (C(1) + exp(-x)); }

template <class C> __device__ __forceinline__ C apply(Function f, C a, C b) {
    switch (f) {
    case Function::add:
        return a + b;
    case Function::sub:
        return a - b;
    case Function::mul:
        return a * b;
    default: // swiglu: up, gate
        return a * silu(b);
    }
}

template <class C> __device__ __forceinline__ C apply(Function f, C x) {
    switch (f) {
    case Function::relu: // NaN stays
        return x < C(0) ? C(0) : x;
    case Function::sigmoid:
        return C(1) / (C(1) + exp(-x));
    case Function::silu:
        return silu(x);
    default:
        return x * C(0.5) * (C(1) + erf(x * C(0.70710678118654752440)));
    }
}

// Integers are only added, in two's complement.
template <> __device__ __forceinline__ int32_t apply(Function, int32_t a, int32_t b) {
    return int32_t(uint32_t(a) + uint32_t(b));
}
template <> __device__ __forceinline__ int64_t apply(Function, int64_t a, int64_t b) {
    return int64_t(uint64_t(a) + uint64_t(b));
}
// Operand 0 is the result.
template <int N> struct Parameters {
    Nest<N> nest;
    void *data[N];
    Function function;
};

// L neighbours from p, or L times the same.
template <int L, class T> __device__ __forceinline__ Pack<T, L> load_or_repeat(const T *p, bool repeat) {
    if (!repeat) {
        return load_pack<L>(p);
    }
    Pack<T, L> values;
    const T value = *p;
#pragma unroll
    for (int k = 0; k < L; k++) {
        values.v[k] = value;
    }
    return values;
}

// L == 1: any strides. Else the innermost stride is 1, or 0 in operands that stand still.
template <class T, int L, int N> __global__ void __launch_bounds__(256) elementwise_kernel(Parameters<N> p) {
    const int inner = p.nest.rank - 1;
    const int64_t row_packs = p.nest.shape[inner] / L, packs = p.nest.count / L;
    for (int64_t i = global_thread(); i < packs; i += grid_threads()) {
        const int64_t row = inner == 0 ? 0 : int64_t(uint64_t(i) / uint64_t(row_packs));
        const int64_t column = (i - row * row_packs) * L;
        int64_t offset[N];
        p.nest.locate(row, inner, offset);
        Pack<T, L> in[N - 1], out;
#pragma unroll
        for (int k = 1; k < N; k++) {
            const int64_t stride = p.nest.strides[k][inner];
            in[k - 1] = load_or_repeat<L>(static_cast<const T *>(p.data[k]) + offset[k] + column * stride, stride == 0);
        }
#pragma unroll
        for (int k = 0; k < L; k++) {
            if constexpr (N == 3) {
                out.v[k] = narrow<T>(apply(p.function, widen(in[0].v[k]), widen(in[1].v[k])));
            } else {
                out.v[k] = narrow<T>(apply(p.function, widen(in[0].v[k])));
            }
        }
        store_pack<L>(static_cast<T *>(p.data[0]) + offset[0] + column * p.nest.strides[0][inner], out);
    }
}

template <int N> struct Base {
    Nest<N> nest;
    infiniDtype_t dtype;
    Limits limits_;

    // Whether L neighbours of every operand are one access, or one element that stands still.
    bool in_packs(void *const (&data)[N], int64_t lanes) const {
        const int inner = nest.rank - 1;
        bool good = nest.shape[inner] % lanes == 0;
        for (int k = 0; k < N; k++) {
            const bool still = k > 0 && nest.strides[k][inner] == 0;
            if (still) {
                continue;
            }
            good &= nest.strides[k][inner] == 1 && aligned(data[k]);
            for (int axis = 0; axis < inner; axis++) {
                good &= nest.strides[k][axis] % lanes == 0;
            }
        }
        return good;
    }

    Status run(Function function, void *const (&data)[N], infinirtStream_t stream) const {
        if (nest.count == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        const auto go = [&](auto tag) {
            using T = typename decltype(tag)::type;
            return in_packs(data, lanes_of<T>) ? run_as<T, lanes_of<T>>(function, data, stream)
                                               : run_as<T, 1>(function, data, stream);
        };
        if constexpr (N == 3) {
            if (dtype == INFINI_DTYPE_I32) {
                return go(Type<int32_t>{});
            }
            if (dtype == INFINI_DTYPE_I64) {
                return go(Type<int64_t>{});
            }
        }
        return visit_float64(dtype, go);
    }

    template <class T, int L> Status run_as(Function function, void *const (&data)[N], infinirtStream_t stream) const {
        Parameters<N> p = {nest, {}, function};
        std::copy(data, data + N, p.data);
        const Plan plan = plan_items(limits_, nest.count / L);
        return launch(elementwise_kernel<T, L, N>, dim3(unsigned(plan.blocks)), dim3(unsigned(plan.threads)), 0, stream,
                      p);
    }

    // A nest without axes is one element.
    void finish(const Call &call) {
        limits_ = limits(call);
        if (nest.rank == 0) {
            nest.rank = 1;
            nest.shape[0] = 1;
            for (auto &s : nest.strides) {
                s[0] = 1;
            }
        }
    }
};

template <Function function, int N> struct State {
    Base<N> base;

    static Status create(const Call &call, State &state, size_t &) {
        std::array<size_t, size_t(N)> tensors;
        for (size_t k = 0; k < size_t(N); k++) {
            tensors[k] = k;
        }
        state.base.dtype = call.dtype(0);
        const Status status = nest_of<N>(call, tensors, state.base.nest);
        state.base.finish(call);
        return status;
    }

    Status calculate(const Run &run) const {
        void *data[N];
        for (size_t k = 0; k < size_t(N); k++) {
            data[k] = run.data<void>(k);
        }
        return base.run(function, data, run.stream());
    }
};

struct SiluAndMul {
    using T = schema::silu_and_mul::T;
    Base<3> base; // output, up, gate
    int64_t up;   // bytes from the gate to the up half

    static Status create(const Call &call, SiluAndMul &state, size_t &) {
        state.base.dtype = call.dtype(T::output);
        state.up = int64_t(call.last_dim(T::output)) * call.last_stride(T::input) *
                   int64_t(element_size(call.dtype(T::output)));
        const Status status = nest_of<3>(call, {T::output, T::input, T::input}, state.base.nest);
        state.base.finish(call);
        return status;
    }

    Status calculate(const Run &run) const {
        char *gate = run.data<char>(T::input);
        void *const data[3] = {run.data<void>(T::output), gate ? gate + up : nullptr, gate};
        return base.run(Function::swiglu, data, run.stream());
    }
};

template <Function f> using Unary = State<f, 2>;
template <Function f> using Binary = State<f, 3>;

constexpr infiniopKernel kernels[] = {
    make_kernel<Binary<Function::add>>(schema::add::op, schema::add::version),
    make_kernel<Binary<Function::sub>>(schema::sub::op, schema::sub::version),
    make_kernel<Binary<Function::mul>>(schema::mul::op, schema::mul::version),
    make_kernel<Binary<Function::swiglu>>(schema::swiglu::op, schema::swiglu::version),
    make_kernel<Unary<Function::relu>>(schema::relu::op, schema::relu::version),
    make_kernel<Unary<Function::sigmoid>>(schema::sigmoid::op, schema::sigmoid::version),
    make_kernel<Unary<Function::silu>>(schema::silu::op, schema::silu::version),
    make_kernel<Unary<Function::gelu>>(schema::gelu::op, schema::gelu::version),
    make_kernel<SiluAndMul>(schema::silu_and_mul::op, schema::silu_and_mul::version),
};
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered[] = {
    &kernels[0], &kernels[1], &kernels[2], &kernels[3], &kernels[4], &kernels[5], &kernels[6], &kernels[7], &kernels[8],
};

} // namespace
} // namespace infiniop::nvidia
