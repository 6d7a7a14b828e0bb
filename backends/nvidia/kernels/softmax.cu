// softmax, log_softmax and causal_softmax. Along a contiguous axis a block (a warp, where rows are short) has a row and
// keeps it in registers; along another axis a thread has a line of elements, and its neighbours the lines beside it.
#include "row_part.cuh"

#include "infiniop/schema/causal_softmax.h"
#include "infiniop/schema/log_softmax.h"
#include "infiniop/schema/softmax.h"

namespace infiniop::nvidia {
namespace {

enum class Form { softmax, log_softmax };

struct Parameters {
    Nest<2> rows; // y, x
    void *y;
    const void *x;
    int64_t width, y_step, x_step; // the axis
    int64_t queries;               // causal: row i of so many keeps width - queries + 1 + i columns; 0: all are kept
    Form form;

    __device__ __forceinline__ int64_t kept(int64_t row) const {
        return queries == 0 ? width : width - queries + 1 + row % queries;
    }
};

// e^x; halves round away more than the fast form loses.
template <class T> __device__ __forceinline__ compute_t<T> exponential(compute_t<T> x) {
    if constexpr (sizeof(T) == 2) {
        return exp2_fast(x * log2e);
    } else {
        return exp(x);
    }
}

template <class C> __device__ __forceinline__ bool is_finite(C x) { return x - x == C(0); }

// The maximum and the sum of exponentials of elements seen so far.
template <class T> struct Running {
    using C = compute_t<T>;
    C maximum, sum;

    __device__ __forceinline__ void add(C x) {
        if (x <= maximum) {
            sum += is_finite(maximum) ? exponential<T>(x - maximum) : C(0);
        } else { // a new maximum, or NaN
            sum = (is_finite(maximum) ? sum * exponential<T>(maximum - x) : C(0)) + C(1);
            maximum = x != x || maximum == maximum ? x : maximum;
        }
    }
};

// What an element becomes, from its numerator, once its row's maximum and sum are known.
template <class T> struct Result {
    using C = compute_t<T>;
    C factor, shift;

    __device__ __forceinline__ Result(C maximum, C sum, Form form) : factor(1), shift(0) {
        if (!is_finite(maximum)) {
            factor = C(NAN);
        } else if (form == Form::softmax) {
            factor = C(1) / sum;
        } else {
            shift = C(log(sum));
        }
    }
    static __device__ __forceinline__ C numerator(C difference, Form form) {
        return form == Form::softmax ? exponential<T>(difference) : difference;
    }
    __device__ __forceinline__ C operator()(C numerator) const { return numerator * factor - shift; }
};

template <class T, int L> __global__ void __launch_bounds__(row_threads, 1) row_kernel(Parameters p) {
    using C = compute_t<T>;
    const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= p.rows.count) {
        return; // a whole warp: rows share a block only where a warp has one
    }
    int64_t offset[2];
    p.rows.locate(row, p.rows.rank, offset);
    T *y = static_cast<T *>(p.y) + offset[0];
    const T *x = static_cast<const T *>(p.x) + offset[1];
    const int64_t kept = p.kept(row);
    const RowPart<L> part = {p.width};

    // Writes over what the mask hides of elements i … i + L - 1.
    const auto hide = [&](C(&values)[L], int64_t i, C with) {
        if (i + L > kept) {
            const int left = int(max(kept - i, int64_t(0)));
#pragma unroll
            for (int k = 0; k < L; k++) {
                values[k] = k < left ? values[k] : with;
            }
        }
    };
    // f(number of the pack, its first element, its values) for the packs of a chunk.
    const auto read = [&](int64_t start, auto &&f) {
        Pack<T, L> raw[row_packs];
        part.load(x, start, raw);
        part.each(start, [&](int j, int64_t i) {
            C values[L];
            widen_pack(raw[j], values);
            hide(values, i, C(-INFINITY));
            f(j, i, values);
        });
    };
    const auto maximum_of = [](const C(&values)[L], C maximum) {
#pragma unroll
        for (int k = 0; k < L; k++) {
            maximum = Max{}(maximum, values[k]);
        }
        return maximum;
    };

    C mine[row_packs][L], highest = C(-INFINITY);
    read(0, [&](int j, int64_t, const C(&values)[L]) {
        memcpy(mine[j], values, sizeof(values));
        highest = maximum_of(values, highest);
    });
    // Beyond the first chunk: the maximum so far, and the sum of exponentials of the differences to it.
    C maximum = C(-INFINITY), sum = 0;
    for (int64_t start = part.chunk(); start < p.width; start += part.chunk()) {
        read(start, [&](int, int64_t, const C(&values)[L]) {
            const C top = maximum_of(values, maximum);
            if (is_finite(top)) {
                sum *= exponential<T>(maximum - top);
#pragma unroll
                for (int k = 0; k < L; k++) {
                    sum += exponential<T>(values[k] - top);
                }
            }
            maximum = top;
        });
    }
    const C largest = block_reduce(Max{}(highest, maximum), Max{}, C(-INFINITY));
    if (is_finite(largest)) {
        sum *= exponential<T>(maximum - largest);
        part.each(0, [&](int j, int64_t) {
#pragma unroll
            for (int k = 0; k < L; k++) {
                const C difference = mine[j][k] - largest, power = exponential<T>(difference);
                sum += power;
                mine[j][k] = p.form == Form::softmax ? power : difference;
            }
        });
    }
    const Result<T> result(largest, block_reduce(sum, Add{}, C(0)), p.form);

    const auto write = [&](int64_t i, C(&numerators)[L]) {
#pragma unroll
        for (int k = 0; k < L; k++) {
            numerators[k] = result(numerators[k]);
        }
        hide(numerators, i, C(0));
        store_pack<L>(y + i, narrow_pack<T>(numerators));
    };
    part.each(0, [&](int j, int64_t i) { write(i, mine[j]); });
    for (int64_t start = part.chunk(); start < p.width; start += part.chunk()) {
        read(start, [&](int, int64_t i, C(&values)[L]) {
#pragma unroll
            for (int k = 0; k < L; k++) {
                values[k] = Result<T>::numerator(values[k] - largest, p.form);
            }
            write(i, values);
        });
    }
}

template <class T> __global__ void __launch_bounds__(256) line_kernel(Parameters p) {
    using C = compute_t<T>;
    for (int64_t row = global_thread(); row < p.rows.count; row += grid_threads()) {
        int64_t offset[2];
        p.rows.locate(row, p.rows.rank, offset);
        T *y = static_cast<T *>(p.y) + offset[0];
        const T *x = static_cast<const T *>(p.x) + offset[1];
        const int64_t kept = p.kept(row);
        Running<T> running = {C(-INFINITY), C(0)};
        for (int64_t i = 0; i < kept; i++) {
            running.add(widen(x[i * p.x_step]));
        }
        const Result<T> result(running.maximum, running.sum, p.form);
        for (int64_t i = 0; i < p.width; i++) {
            const C difference = widen(x[i * p.x_step]) - running.maximum;
            y[i * p.y_step] = narrow<T>(i < kept ? result(Result<T>::numerator(difference, p.form)) : C(0));
        }
    }
}

struct Base {
    Parameters p;
    infiniDtype_t dtype;
    Limits limits_;

    static Status prepare(const Call &call, Base &state, Form form, size_t axis, bool causal) {
        constexpr size_t y = 0, x = 1;
        Parameters &p = state.p;
        const size_t rank = call.rank(y);
        state.dtype = call.dtype(y);
        state.limits_ = limits(call);
        p.form = form;
        p.width = int64_t(call.dim(y, axis));
        p.y_step = call.stride(y, axis);
        p.x_step = call.stride(x, axis);
        p.queries = causal ? int64_t(call.dim(y, rank - 2)) : 0;
        // Causal rows are counted in their own order; otherwise neighbours in memory go to neighbouring threads.
        return nest_of<2>(call, {y, x}, p.rows, 0, rank, !causal, axis);
    }

    Status calculate(const Run &run) const {
        if (p.rows.count == 0 || p.width == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        Parameters q = p;
        q.y = run.data<void>(0);
        q.x = run.data<void>(1);
        return visit_float64(dtype, [&](auto tag) {
            using T = typename decltype(tag)::type;
            if (p.y_step != 1 || p.x_step != 1) {
                const Plan plan = plan_items(limits_, p.rows.count);
                return launch(line_kernel<T>, dim3(unsigned(plan.blocks)), dim3(unsigned(plan.threads)), 0,
                              run.stream(), q);
            }
            constexpr int lanes = lanes_of<T>;
            const bool in_packs = rows_in_packs(q.rows, q.width, lanes) && aligned(q.y) && aligned(q.x);
            return in_packs ? launch_rows(row_kernel<T, lanes>, q, lanes, run.stream())
                            : launch_rows(row_kernel<T, 1>, q, 1, run.stream());
        });
    }
};

struct Softmax : Base {
    static Status create(const Call &call, Softmax &state, size_t &) {
        const int64_t axis = call.integer(schema::softmax::A::axis);
        return prepare(call, state, Form::softmax, size_t(axis < 0 ? axis + int64_t(call.rank(0)) : axis), false);
    }
};

struct LogSoftmax : Base {
    static Status create(const Call &call, LogSoftmax &state, size_t &) {
        const int64_t axis = call.integer(schema::log_softmax::A::dim);
        return prepare(call, state, Form::log_softmax, size_t(axis < 0 ? axis + int64_t(call.rank(0)) : axis), false);
    }
};

struct CausalSoftmax : Base {
    static Status create(const Call &call, CausalSoftmax &state, size_t &) {
        return prepare(call, state, Form::softmax, call.rank(0) - 1, true);
    }
};

constexpr infiniopKernel softmax = make_kernel<Softmax>(schema::softmax::op, schema::softmax::version);
constexpr infiniopKernel log_softmax = make_kernel<LogSoftmax>(schema::log_softmax::op, schema::log_softmax::version);
constexpr infiniopKernel causal_softmax =
    make_kernel<CausalSoftmax>(schema::causal_softmax::op, schema::causal_softmax::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered[] = {&softmax, &log_softmax,
                                                                                            &causal_softmax};

} // namespace
} // namespace infiniop::nvidia
