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

// Which one is a kernel argument: an operator has no kernels of its own.
enum class Function { add, sub, mul, swiglu, relu, sigmoid, silu, gelu };

// numerator / (1 + e^-x); halves round away more than the fast forms lose.
template <class T> __device__ __forceinline__ compute_t<T> logistic(compute_t<T> x, compute_t<T> numerator) {
    if constexpr (sizeof(T) == 2) {
        return numerator * reciprocal_fast(1.0f + exp2_fast(x * -log2e));
    } else {
        return numerator / (compute_t<T>(1) + exp(-x));
    }
}

// f(the function) once, however many elements it is for. Integers are only added, in two's complement.
template <class T, class F> __device__ __forceinline__ void with_binary(Function function, F &&f) {
    using C = compute_t<T>;
    if constexpr (std::is_integral_v<T>) {
        f([](C a, C b) { return C(std::make_unsigned_t<C>(a) + std::make_unsigned_t<C>(b)); });
    } else {
        switch (function) {
        case Function::add:
            return f([](C a, C b) { return a + b; });
        case Function::sub:
            return f([](C a, C b) { return a - b; });
        case Function::mul:
            return f([](C a, C b) { return a * b; });
        default: // swiglu: up, gate
            return f([](C a, C b) { return a * logistic<T>(b, b); });
        }
    }
}

template <class T, class F> __device__ __forceinline__ void with_unary(Function function, F &&f) {
    using C = compute_t<T>;
    switch (function) {
    case Function::relu: // NaN stays
        return f([](C x) { return x < C(0) ? C(0) : x; });
    case Function::sigmoid:
        return f([](C x) { return logistic<T>(x, C(1)); });
    case Function::silu:
        return f([](C x) { return logistic<T>(x, x); });
    default:
        return f([](C x) { return x * C(0.5) * (C(1) + erf(x * C(0.70710678118654752440))); });
    }
}

// Operand 0 is the result.
template <int N> struct Parameters {
    Nest<N> nest;
    void *data[N];
    Function function;
};

// L neighbours from p; or L times the same, where an operand with `Still` stands still.
template <int L, bool Still, class T> __device__ __forceinline__ Pack<T, L> load_or_repeat(const T *p, bool still) {
    if (!Still || !still) {
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

constexpr int threads = 256, at_once = 2; // packs of a thread, loaded before the first is used

// Positions are packs of L neighbours. L == 1: any strides. Else the innermost stride is L; with Still, 0 in operands
// that stand still.
template <class T, int L, bool Still, int N>
__global__ void __launch_bounds__(threads) elementwise_kernel(Parameters<N> p) {
    using C = compute_t<T>;
    const int64_t first = int64_t(blockIdx.x) * (at_once * threads) + threadIdx.x;
    if (first >= p.nest.count) {
        return;
    }
    int64_t offset[at_once][N];
    Pack<T, L> in[at_once][N - 1];
#pragma unroll
    for (int u = 0; u < at_once; u++) {
        const int64_t i = first + u * threads;
        p.nest.locate(i < p.nest.count ? i : first, p.nest.rank, offset[u]);
#pragma unroll
        for (int k = 1; k < N; k++) {
            in[u][k - 1] = load_or_repeat<L, Still>(static_cast<const T *>(p.data[k]) + offset[u][k],
                                                    p.nest.strides[k][p.nest.rank - 1] == 0);
        }
    }
    const auto compute = [&](auto &&function) {
#pragma unroll
        for (int u = 0; u < at_once; u++) {
            C values[N - 1][L];
#pragma unroll
            for (int k = 0; k < N - 1; k++) {
                widen_pack(in[u][k], values[k]);
            }
#pragma unroll
            for (int k = 0; k < L; k++) {
                if constexpr (N == 3) {
                    values[0][k] = function(values[0][k], values[1][k]);
                } else {
                    values[0][k] = function(values[0][k]);
                }
            }
            if (first + u * threads < p.nest.count) {
                store_pack<L>(static_cast<T *>(p.data[0]) + offset[u][0], narrow_pack<T>(values[0]));
            }
        }
    };
    if constexpr (N == 3) {
        with_binary<T>(p.function, compute);
    } else {
        with_unary<T>(p.function, compute);
    }
}

template <int N> struct Base {
    Nest<N> nest;
    infiniDtype_t dtype;

    // Whether L neighbours of every operand are one access, or one element that stands still.
    bool in_packs(void *const (&data)[N], int64_t lanes) const {
        const int inner = nest.rank - 1;
        bool good = nest.shape[inner] % lanes == 0;
        for (int k = 0; k < N; k++) {
            if (stands_still(k)) {
                continue;
            }
            good &= nest.strides[k][inner] == 1 && aligned(data[k]);
            for (int axis = 0; axis < inner; axis++) {
                good &= nest.strides[k][axis] % lanes == 0;
            }
        }
        return good;
    }

    bool stands_still(int k) const { return k > 0 && nest.strides[k][nest.rank - 1] == 0; }

    Status run(Function function, void *const (&data)[N], infinirtStream_t stream) const {
        if (nest.count == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        const auto go = [&](auto tag) {
            using T = typename decltype(tag)::type;
            constexpr int lanes = lanes_of<T>;
            if (!in_packs(data, lanes)) {
                return launch_as<1>(elementwise_kernel<T, 1, false, N>, function, data, stream);
            }
            return stands_still(1) || stands_still(N - 1)
                       ? launch_as<lanes>(elementwise_kernel<T, lanes, true, N>, function, data, stream)
                       : launch_as<lanes>(elementwise_kernel<T, lanes, false, N>, function, data, stream);
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

    template <int L>
    Status launch_as(void (*kernel)(Parameters<N>), Function function, void *const (&data)[N],
                     infinirtStream_t stream) const {
        Parameters<N> p = {nest, {}, function};
        std::copy(data, data + N, p.data);
        if (L > 1) {
            const int inner = nest.rank - 1;
            p.nest.count /= L;
            p.nest.shape[inner] /= L;
            for (auto &s : p.nest.strides) {
                s[inner] *= L;
            }
            p.nest.finish();
        }
        return launch(kernel, dim3(unsigned(ceil_div(p.nest.count, threads * at_once))), dim3(threads), 0, stream, p);
    }

    // A nest without axes is one element.
    void finish() {
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
        state.base.finish();
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
        state.base.finish();
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
