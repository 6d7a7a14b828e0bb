// rms_norm and add_rms_norm: a warp per short row, a block per long one; a row is read once and stays in registers.
#include "row_part.cuh"

#include "infiniop/schema/add_rms_norm.h"
#include "infiniop/schema/rms_norm.h"

namespace infiniop::nvidia {
namespace {

// Packs that a thread keeps in registers; what lies beyond them is read again.
template <int L> constexpr int kept = L >= 8 || L == 1 ? 2 : 4;

// Operands: y, x; with Add also residual_out and the second addend.
template <int N> struct Parameters {
    Nest<N> rows;
    int64_t width;
    void *data[N];
    const void *weight;
    infiniDtype_t weight_dtype;
    float epsilon;
};

template <class W, int L, class C>
__device__ __forceinline__ void widen_weights(const void *weight, int64_t i, C (&w)[L]) {
    const Pack<W, L> values = load_pack<L>(static_cast<const W *>(weight) + i);
#pragma unroll
    for (int k = 0; k < L; k++) {
        w[k] = widen(values.v[k]);
    }
}

// Weights i … i + L - 1, whatever their dtype.
template <class T, int L>
__device__ __forceinline__ void read_weights(const void *weight, infiniDtype_t dtype, int64_t i, compute_t<T> (&w)[L]) {
    if constexpr (sizeof(T) == 2) {
        if (dtype == INFINI_DTYPE_F16) {
            return widen_weights<f16>(weight, i, w);
        }
        if (dtype == INFINI_DTYPE_BF16) {
            return widen_weights<bf16>(weight, i, w);
        }
        return widen_weights<float>(weight, i, w);
    } else {
        return widen_weights<T>(weight, i, w);
    }
}

// One row at a time; operand 0 is y, 1 is x (or a); with Sum 2 is b and 3 residual_out.
template <class T, int L, bool Sum> __global__ void __launch_bounds__(1024, 1) norm_kernel(Parameters<Sum ? 4 : 2> p) {
    using C = compute_t<T>;
    constexpr int n = Sum ? 4 : 2;
    const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= p.rows.count) {
        return; // a whole warp: rows share a block only where a warp has one
    }
    int64_t offset[n];
    p.rows.locate(row, p.rows.rank, offset);
    T *y = static_cast<T *>(p.data[0]) + offset[0];
    const T *x = static_cast<const T *>(p.data[1]) + offset[1];
    const T *b = Sum ? static_cast<const T *>(p.data[n - 2]) + offset[n - 2] : nullptr;
    T *sum_out = Sum ? static_cast<T *>(p.data[n - 1]) + offset[n - 1] : nullptr;

    // Elements i … i + L - 1 of the row; with Sum, the rounded sum is stored on the first visit.
    const auto read = [&](int64_t i, C(&values)[L]) {
        const Pack<T, L> xs = load_pack<L>(x + i);
        if constexpr (Sum) {
            const Pack<T, L> bs = load_pack<L>(b + i);
#pragma unroll
            for (int k = 0; k < L; k++) {
                values[k] = widen(xs.v[k]) + widen(bs.v[k]);
            }
        } else {
#pragma unroll
            for (int k = 0; k < L; k++) {
                values[k] = widen(xs.v[k]);
            }
        }
    };
    const RowPart<L, kept<L>> part(p.width);
    C mine[kept<L>][L];
    C squares = 0;
    part.kept([&](int j, int64_t i) {
        read(i, mine[j]);
#pragma unroll
        for (int k = 0; k < L; k++) {
            squares += mine[j][k] * mine[j][k];
        }
    });
    part.beyond([&](int64_t i) {
        C values[L];
        read(i, values);
#pragma unroll
        for (int k = 0; k < L; k++) {
            squares += values[k] * values[k];
        }
    });
    squares = block_reduce(squares, Add{}, C(0));
    const C scale = C(1) / sqrt(squares / C(p.width) + C(p.epsilon));

    const auto write = [&](int64_t i, const C(&values)[L]) {
        Pack<T, L> out, sums;
        C weights[L];
        read_weights<T, L>(p.weight, p.weight_dtype, i, weights);
#pragma unroll
        for (int k = 0; k < L; k++) {
            C value = values[k];
            if constexpr (Sum) {
                sums.v[k] = narrow<T>(value);
                value = widen(sums.v[k]);
            }
            out.v[k] = narrow<T>(value * (scale * weights[k]));
        }
        if constexpr (Sum) {
            store_pack<L>(sum_out + i, sums);
        }
        store_pack<L>(y + i, out);
    };
    part.kept([&](int j, int64_t i) { write(i, mine[j]); });
    part.beyond([&](int64_t i) {
        C values[L];
        read(i, values);
        write(i, values);
    });
}

// `Order`: the operands' tensors, as the kernel counts them.
template <class Schema> struct State {
    static constexpr int n = Schema::count;
    Parameters<n> p;
    infiniDtype_t dtype;

    static Status create(const Call &call, State &state, size_t &) {
        const std::array<size_t, size_t(n)> order = Schema::order();
        const size_t rank = call.rank(order[0]);
        state.dtype = call.dtype(order[0]);
        state.p.width = int64_t(call.dim(order[0], rank - 1));
        state.p.weight_dtype = call.dtype(Schema::weight);
        state.p.epsilon = float(call.real(Schema::epsilon));
        return nest_of<n>(call, order, state.p.rows, 0, rank - 1, false);
    }

    Status calculate(const Run &run) const {
        if (p.rows.count == 0 || p.width == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        Parameters<n> q = p;
        for (size_t k = 0; k < size_t(n); k++) {
            q.data[k] = run.data<void>(Schema::order()[k]);
        }
        q.weight = run.data<void>(Schema::weight);
        return visit_float64(dtype, [&](auto tag) {
            using T = typename decltype(tag)::type;
            constexpr int lanes = lanes_of<T>;
            return in_packs(q, lanes) ? launch_rows<lanes>(norm_kernel<T, lanes, n == 4>, q, run.stream())
                                      : launch_rows<1>(norm_kernel<T, 1, n == 4>, q, run.stream());
        });
    }

    static bool in_packs(const Parameters<n> &q, int64_t lanes) {
        bool good = rows_in_packs(q.rows, q.width, lanes) &&
                    aligned_for(q.weight, size_t(lanes) * element_size(q.weight_dtype));
        for (const void *data : q.data) {
            good &= aligned(data);
        }
        return good;
    }
};

struct RmsNorm {
    using T = schema::rms_norm::T;
    static constexpr int count = 2;
    static constexpr size_t weight = T::w, epsilon = schema::rms_norm::A::epsilon;
    static constexpr std::array<size_t, 2> order() { return {T::y, T::x}; }
};

struct AddRmsNorm {
    using T = schema::add_rms_norm::T;
    static constexpr int count = 4;
    static constexpr size_t weight = T::weight, epsilon = schema::add_rms_norm::A::epsilon;
    static constexpr std::array<size_t, 4> order() { return {T::y, T::a, T::b, T::residual_out}; }
};

constexpr infiniopKernel rms_norm = make_kernel<State<RmsNorm>>(schema::rms_norm::op, schema::rms_norm::version);
constexpr infiniopKernel add_rms_norm =
    make_kernel<State<AddRmsNorm>>(schema::add_rms_norm::op, schema::add_rms_norm::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered[] = {&rms_norm, &add_rms_norm};

} // namespace
} // namespace infiniop::nvidia
