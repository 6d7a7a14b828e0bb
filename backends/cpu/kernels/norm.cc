// rms_norm and add_rms_norm: rows along the last axis, whose stride is 1.
#include <cmath>

#include "pool.h"
#include "reduce.h"

#include "infiniop/schema/add_rms_norm.h"
#include "infiniop/schema/rms_norm.h"

namespace infiniop::cpu {
namespace {

// Calls f(Type<T>, Type<W>) for the pairs of activation and weight dtypes.
template <class F> Status visit_weights(infiniDtype_t dtype, infiniDtype_t weight, F &&f) {
    if (dtype == INFINI_DTYPE_F64) {
        return f(Type<double>{}, Type<double>{});
    }
    if (dtype == INFINI_DTYPE_F32) {
        return f(Type<float>{}, Type<float>{});
    }
    return visit_float(weight,
                       [&](auto w) { return dtype == INFINI_DTYPE_F16 ? f(Type<f16>{}, w) : f(Type<bf16>{}, w); });
}

// The leading axes of up to four [.. , d] tensors: one or two of them.
template <size_t N> struct Rows {
    size_t outer = 1, inner, d;
    ptrdiff_t outer_stride[N] = {}, inner_stride[N];

    static Rows of(const Call &call, const size_t (&tensors)[N]) {
        Rows rows;
        const size_t rank = call.rank(tensors[0]);
        rows.d = call.last_dim(tensors[0]);
        rows.inner = call.dim(tensors[0], rank - 2);
        rows.outer = rank == 3 ? call.dim(tensors[0], 0) : 1;
        for (size_t i = 0; i < N; i++) {
            rows.inner_stride[i] = call.stride(tensors[i], rank - 2);
            rows.outer_stride[i] = rank == 3 ? call.stride(tensors[i], 0) : 0;
        }
        return rows;
    }

    size_t count() const { return outer * inner; }
    ptrdiff_t offset(size_t tensor, size_t row) const {
        return ptrdiff_t(row / inner) * outer_stride[tensor] + ptrdiff_t(row % inner) * inner_stride[tensor];
    }
};

template <class C> C inverse_rms(double sum_of_squares, size_t d, double epsilon) {
    return C(1.0 / std::sqrt(sum_of_squares / double(d) + epsilon));
}

// y = x · w · scale
template <class T, class W> void scale_row(T *y, const T *x, const W *w, size_t d, compute_t<T> scale) {
    const auto s = splat<vector_t<T>>(scale);
    for_vectors<lanes<T>>(d,
                          [&](size_t i, auto part) { store(y + i, load(x + i, part) * load(w + i, part) * s, part); });
}

struct RmsNorm {
    using T = schema::rms_norm::T;

    Rows<2> rows;
    double epsilon;
    infiniDtype_t dtype, weight;

    static Status create(const Call &call, RmsNorm &state, size_t &) {
        state.rows = Rows<2>::of(call, {T::y, T::x});
        state.epsilon = call.real(schema::rms_norm::A::epsilon);
        state.dtype = call.dtype(T::y);
        state.weight = call.dtype(T::w);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        return visit_weights(dtype, weight, [&](auto t, auto w) {
            calculate_as<typename decltype(t)::type, typename decltype(w)::type>(run);
            return INFINI_STATUS_SUCCESS;
        });
    }

    template <class X, class W> void calculate_as(const Run &run) const {
        X *y = run.data<X>(T::y);
        const X *x = run.data<X>(T::x);
        const W *w = run.data<W>(T::w);
        parallel_for(rows.count(), grain_for(4 * rows.d * sizeof(X)), [&](size_t begin, size_t end) {
            for (size_t r = begin; r < end; r++) {
                const X *from = x + rows.offset(1, r);
                const double squares = sum_over<X>(rows.d, [&](size_t i, auto part) {
                    const auto v = load(from + i, part);
                    return v * v;
                });
                scale_row(y + rows.offset(0, r), from, w, rows.d, inverse_rms<compute_t<X>>(squares, rows.d, epsilon));
            }
        });
    }
};

struct AddRmsNorm {
    using T = schema::add_rms_norm::T;

    Rows<4> rows;
    double epsilon;
    infiniDtype_t dtype, weight;

    static Status create(const Call &call, AddRmsNorm &state, size_t &) {
        state.rows = Rows<4>::of(call, {T::y, T::residual_out, T::a, T::b});
        state.epsilon = call.real(schema::add_rms_norm::A::epsilon);
        state.dtype = call.dtype(T::y);
        state.weight = call.dtype(T::weight);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        return visit_weights(dtype, weight, [&](auto t, auto w) {
            calculate_as<typename decltype(t)::type, typename decltype(w)::type>(run);
            return INFINI_STATUS_SUCCESS;
        });
    }

    // The squares are of the unrounded sum; what is scaled is the sum as stored.
    template <class X, class W> void calculate_as(const Run &run) const {
        X *y = run.data<X>(T::y), *residual = run.data<X>(T::residual_out);
        const X *a = run.data<X>(T::a), *b = run.data<X>(T::b);
        const W *w = run.data<W>(T::weight);
        parallel_for(rows.count(), grain_for(6 * rows.d * sizeof(X)), [&](size_t begin, size_t end) {
            for (size_t r = begin; r < end; r++) {
                X *sums = residual + rows.offset(1, r);
                const X *left = a + rows.offset(2, r), *right = b + rows.offset(3, r);
                const double squares = sum_over<X>(rows.d, [&](size_t i, auto part) {
                    const auto v = load(left + i, part) + load(right + i, part);
                    store(sums + i, v, part);
                    return v * v;
                });
                scale_row(y + rows.offset(0, r), sums, w, rows.d, inverse_rms<compute_t<X>>(squares, rows.d, epsilon));
            }
        });
    }
};

constexpr infiniopKernel kernels[] = {
    make_kernel<RmsNorm>(schema::rms_norm::op, schema::rms_norm::version),
    make_kernel<AddRmsNorm>(schema::add_rms_norm::op, schema::add_rms_norm::version),
};
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered[] = {&kernels[0], &kernels[1]};

} // namespace
} // namespace infiniop::cpu
