// rms_norm and add_rms_norm: a warp per short row, a block per long one; a row is read once and stays in registers.
#include "row_part.cuh"

#include "infiniop/schema/add_rms_norm.h"
#include "infiniop/schema/rms_norm.h"

namespace infiniop::nvidia {
namespace {

// Operands: y, x; with Add also residual_out and the second addend.
template <int N> struct Parameters {
    Nest<N> rows;
    int64_t width;
    void *data[N];
    const void *weight;
    float epsilon;
};

// One row at a time; operand 0 is y, 1 is x (or a); with Sum 2 is b and 3 residual_out. W is the weight's type.
template <class T, class W, int L, bool Sum>
__global__ void __launch_bounds__(row_threads) norm_kernel(Parameters<Sum ? 4 : 2> p) {
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
    const W *weight = static_cast<const W *>(p.weight);

    const RowPart<L> part = {p.width};
    using Packs = Pack<T, L>[row_packs];
    C squares = 0;

    // What is normalised, and its squares; a sum is squared as it is, and from then on it is what was stored of it.
    const auto read = [&](int64_t start, Packs &packs) {
        Packs addends;
        part.load(x, start, packs);
        if constexpr (Sum) {
            part.load(b, start, addends);
        }
        part.each(start, [&](int j, int64_t i) {
            C values[L];
            widen_pack(packs[j], values);
            if constexpr (Sum) {
                C others[L];
                widen_pack(addends[j], others);
#pragma unroll
                for (int k = 0; k < L; k++) {
                    values[k] += others[k];
                }
                packs[j] = narrow_pack<T>(values);
                store_pack<L>(sum_out + i, packs[j]);
            }
#pragma unroll
            for (int k = 0; k < L; k++) {
                squares += values[k] * values[k];
            }
        });
    };
    Packs kept;
    read(0, kept);
    for (int64_t start = part.chunk(); start < p.width; start += part.chunk()) {
        Packs packs;
        read(start, packs);
    }
    squares = block_reduce(squares, Add{}, C(0));
    const C scale = C(1) / sqrt(squares / C(p.width) + C(p.epsilon));

    const auto write = [&](int64_t start, const Packs &packs) {
        Pack<W, L> weights[row_packs];
        part.load(weight, start, weights);
        part.each(start, [&](int j, int64_t i) {
            C values[L];
            compute_t<W> factors[L];
            widen_pack(packs[j], values);
            widen_pack(weights[j], factors);
#pragma unroll
            for (int k = 0; k < L; k++) {
                values[k] *= scale * factors[k];
            }
            store_pack<L>(y + i, narrow_pack<T>(values));
        });
    };
    write(0, kept);
    for (int64_t start = part.chunk(); start < p.width; start += part.chunk()) {
        Packs packs;
        part.load(Sum ? sum_out : x, start, packs);
        write(start, packs);
    }
}

// The type of the weight of a row of T: halves go with any half and with f32.
template <class T, class F> Status visit_weight(infiniDtype_t dtype, F &&f) {
    if constexpr (sizeof(T) == 2) {
        return visit_float(dtype, f);
    } else {
        return f(Type<T>{});
    }
}

// `Order`: the operands' tensors, as the kernel counts them.
template <class Schema> struct State {
    static constexpr int n = Schema::count;
    Parameters<n> p;
    infiniDtype_t dtype, weight_dtype;

    static Status create(const Call &call, State &state, size_t &) {
        const std::array<size_t, size_t(n)> order = Schema::order();
        const size_t rank = call.rank(order[0]);
        state.dtype = call.dtype(order[0]);
        state.p.width = int64_t(call.dim(order[0], rank - 1));
        state.weight_dtype = call.dtype(Schema::weight);
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
            return visit_weight<T>(weight_dtype, [&](auto weight_tag) {
                using W = typename decltype(weight_tag)::type;
                constexpr int lanes = lanes_of<T>;
                constexpr bool sum = n == 4;
                return in_packs(q, lanes) ? launch_rows(norm_kernel<T, W, lanes, sum>, q, lanes, run.stream())
                                          : launch_rows(norm_kernel<T, W, 1, sum>, q, 1, run.stream());
            });
        });
    }

    bool in_packs(const Parameters<n> &q, int64_t lanes) const {
        bool good =
            rows_in_packs(q.rows, q.width, lanes) && aligned_for(q.weight, size_t(lanes) * element_size(weight_dtype));
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
