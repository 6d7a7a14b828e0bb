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
        return __expf(x);
    } else {
        return exp(x);
    }
}

template <class C> __device__ __forceinline__ bool is_finite(C x) { return x - x == C(0); }
template <class C> __device__ __forceinline__ C minus_infinity() { return C(-1) / C(0); }
template <class C> __device__ __forceinline__ C not_a_number() { return C(0) / C(0); }

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

// What an element becomes, once its row's maximum and sum are known.
template <class T> struct Result {
    using C = compute_t<T>;
    C maximum, factor, shift;
    Form form;

    __device__ __forceinline__ Result(C maximum_, C sum, Form form_) : maximum(maximum_), form(form_) {
        const bool good = is_finite(maximum_);
        factor = good ? C(1) / sum : not_a_number<C>();
        shift = good && form_ == Form::log_softmax ? C(log(sum)) : not_a_number<C>();
    }
    __device__ __forceinline__ C operator()(C x) const {
        return form == Form::softmax ? exponential<T>(x - maximum) * factor : x - maximum - shift;
    }
};

template <int L> constexpr int kept_packs = L >= 8 ? 2 : 4; // in registers; what lies beyond them is read again

template <class T, int L> __global__ void __launch_bounds__(1024, 1) row_kernel(Parameters p) {
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
    const RowPart<L, kept_packs<L>> part(p.width);

    const auto read = [&](int64_t i, C(&values)[L]) {
        const Pack<T, L> pack = load_pack<L>(x + i);
#pragma unroll
        for (int k = 0; k < L; k++) {
            values[k] = i + k < kept ? widen(pack.v[k]) : minus_infinity<C>();
        }
    };

    C mine[kept_packs<L>][L];
    Running<T> running = {minus_infinity<C>(), C(0)};
    part.kept([&](int j, int64_t i) {
        read(i, mine[j]);
#pragma unroll
        for (int k = 0; k < L; k++) {
            running.maximum = Max{}(running.maximum, mine[j][k]);
        }
    });
    part.beyond([&](int64_t i) {
        C values[L];
        read(i, values);
#pragma unroll
        for (int k = 0; k < L; k++) {
            running.add(values[k]);
        }
    });
    const C maximum = running.maximum;
    C sum = 0;
    const C largest = block_reduce(maximum, Max{}, minus_infinity<C>());
    if (is_finite(largest)) {
        if (!part.is_kept()) { // what `running` added up had its own maximum
            sum = is_finite(maximum) ? running.sum * exponential<T>(maximum - largest) : C(0);
        }
        part.kept([&](int j, int64_t) {
#pragma unroll
            for (int k = 0; k < L; k++) {
                sum += exponential<T>(mine[j][k] - largest);
            }
        });
    }
    const Result<T> result(largest, block_reduce(sum, Add{}, C(0)), p.form);

    const auto write = [&](int64_t i, const C(&values)[L]) {
        Pack<T, L> out;
#pragma unroll
        for (int k = 0; k < L; k++) {
            out.v[k] = narrow<T>(i + k < kept ? result(values[k]) : C(0));
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

template <class T> __global__ void __launch_bounds__(256) line_kernel(Parameters p) {
    using C = compute_t<T>;
    for (int64_t row = global_thread(); row < p.rows.count; row += grid_threads()) {
        int64_t offset[2];
        p.rows.locate(row, p.rows.rank, offset);
        T *y = static_cast<T *>(p.y) + offset[0];
        const T *x = static_cast<const T *>(p.x) + offset[1];
        const int64_t kept = p.kept(row);
        Running<T> running = {minus_infinity<C>(), C(0)};
        for (int64_t i = 0; i < kept; i++) {
            running.add(widen(x[i * p.x_step]));
        }
        const Result<T> result(running.maximum, running.sum, p.form);
        for (int64_t i = 0; i < p.width; i++) {
            y[i * p.y_step] = narrow<T>(i < kept ? result(widen(x[i * p.x_step])) : C(0));
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
            const bool packs = rows_in_packs(q.rows, q.width, lanes) && aligned(q.y) && aligned(q.x);
            return packs ? launch_rows<lanes>(row_kernel<T, lanes>, q, run.stream())
                         : launch_rows<1>(row_kernel<T, 1>, q, run.stream());
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
