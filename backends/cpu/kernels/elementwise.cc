// The elementwise family: c = f(a) and c = f(a, b) on tensors of one shape.
#include "strided.h"
#include "vmath.h"

#include "infiniop/schema/add.h"
#include "infiniop/schema/gelu.h"
#include "infiniop/schema/mul.h"
#include "infiniop/schema/relu.h"
#include "infiniop/schema/sigmoid.h"
#include "infiniop/schema/silu.h"
#include "infiniop/schema/sub.h"
#include "infiniop/schema/swiglu.h"

namespace infiniop::cpu {
namespace {

struct Add {
    template <class V> static V of(V a, V b) { return a + b; }
};
struct Sub {
    template <class V> static V of(V a, V b) { return a - b; }
};
struct Mul {
    template <class V> static V of(V a, V b) { return a * b; }
};
struct Swiglu { // up, gate
    template <class V> static V of(V up, V gate) { return up * silu(gate); }
};
struct Silu {
    template <class V> static V of(V x) { return silu(x); }
};
struct Gelu {
    template <class V> static V of(V x) { return gelu(x); }
};
struct Sigmoid {
    template <class V> static V of(V x) { return sigmoid(x); }
};
struct Relu { // NaN stays
    template <class V> static V of(V x) { return x < 0.0f ? V{} : x; }
};

// An input that stands still along the innermost axis: its stride is a compile-time 0.
struct Still {};
template <class T, class Part> vector_t<T> load_strided(const T *p, Still, Part) { return splat<vector_t<T>>(get(*p)); }
ptrdiff_t times(size_t, Still) { return 0; }
ptrdiff_t times(size_t i, Unit) { return ptrdiff_t(i); }
ptrdiff_t times(size_t i, Streamed) { return ptrdiff_t(i); }
ptrdiff_t times(size_t i, ptrdiff_t stride) { return ptrdiff_t(i) * stride; }

template <class F, class T, class SC, class SA> void unary_row(T *c, const T *a, size_t n, SC sc, SA sa) {
    for_vectors<lanes<T>>(n, [&](size_t i, auto part) {
        store_strided(c + times(i, sc), sc, F::of(load_strided(a + times(i, sa), sa, part)), part);
    });
}

template <class F, class T, class SC, class SA, class SB>
void binary_row(T *c, const T *a, const T *b, size_t n, SC sc, SA sa, SB sb) {
    for_vectors<lanes<T>>(n, [&](size_t i, auto part) {
        const auto x = load_strided(a + times(i, sa), sa, part), y = load_strided(b + times(i, sb), sb, part);
        store_strided(c + times(i, sc), sc, F::of(x, y), part);
    });
}

template <class F> struct Unary {
    Nest<2> nest;
    infiniDtype_t dtype;

    static Status create(const Call &call, Unary &state, size_t &) {
        state.dtype = call.dtype(0);
        return Nest<2>::of(call, {0, 1}, state.nest);
    }

    Status calculate(const Run &run) const {
        return visit_float64(dtype, [&](auto tag) {
            using T = typename decltype(tag)::type;
            T *c = run.data<T>(0);
            const T *a = run.data<T>(1);
            const ptrdiff_t sc = nest.inner_stride(0), sa = nest.inner_stride(1);
            const bool past = c != a && exceeds_cache(nest.count * 2 * sizeof(T));
            const auto piece = [&](const ptrdiff_t *offset, size_t n) {
                T *to = c + offset[0];
                const T *from = a + offset[1];
                if (sc == 1 && sa == 1) {
                    write_lines(to, n, past, [&](size_t i, size_t count, auto stride) {
                        unary_row<F>(to + i, from + i, count, stride, Unit{});
                    });
                } else if (sc == 1 && sa == 0) {
                    unary_row<F>(to, from, n, Unit{}, Still{});
                } else {
                    unary_row<F>(to, from, n, sc, sa);
                }
            };
            parallel_pieces(nest, 2 * sizeof(T), piece, past ? streamed_piece : usual_piece);
            return INFINI_STATUS_SUCCESS;
        });
    }
};

template <class F> struct Binary {
    Nest<3> nest;
    infiniDtype_t dtype;

    static Status create(const Call &call, Binary &state, size_t &) {
        state.dtype = call.dtype(0);
        return Nest<3>::of(call, {0, 1, 2}, state.nest);
    }

    Status calculate(const Run &run) const {
        return visit_float64(dtype, [&](auto tag) {
            calculate_as<typename decltype(tag)::type>(run);
            return INFINI_STATUS_SUCCESS;
        });
    }

    template <class T> void calculate_as(const Run &run) const {
        T *c = run.data<T>(0);
        const T *a = run.data<T>(1), *b = run.data<T>(2);
        const ptrdiff_t sc = nest.inner_stride(0), sa = nest.inner_stride(1), sb = nest.inner_stride(2);
        const bool past = c != a && c != b && exceeds_cache(nest.count * 3 * sizeof(T));
        const auto piece = [&](const ptrdiff_t *offset, size_t n) {
            T *to = c + offset[0];
            const T *x = a + offset[1], *y = b + offset[2];
            if (sc == 1 && sa == 1 && sb == 1) {
                write_lines(to, n, past, [&](size_t i, size_t count, auto stride) {
                    binary_row<F>(to + i, x + i, y + i, count, stride, Unit{}, Unit{});
                });
            } else if (sc == 1 && sa == 1 && sb == 0) {
                binary_row<F>(to, x, y, n, Unit{}, Unit{}, Still{});
            } else if (sc == 1 && sa == 0 && sb == 1) {
                binary_row<F>(to, x, y, n, Unit{}, Still{}, Unit{});
            } else {
                binary_row<F>(to, x, y, n, sc, sa, sb);
            }
        };
        parallel_pieces(nest, 3 * sizeof(T), piece, past ? streamed_piece : usual_piece);
    }
};

// add also takes integers, which wrap around.
struct AddState : Binary<Add> {
    static Status create(const Call &call, AddState &state, size_t &workspace) {
        return Binary<Add>::create(call, state, workspace);
    }

    Status calculate(const Run &run) const {
        switch (dtype) {
        case INFINI_DTYPE_I32:
            return add_integers<uint32_t>(run);
        case INFINI_DTYPE_I64:
            return add_integers<uint64_t>(run);
        default:
            return Binary<Add>::calculate(run);
        }
    }

    template <class T> Status add_integers(const Run &run) const {
        T *c = run.data<T>(0);
        const T *a = run.data<T>(1), *b = run.data<T>(2);
        const ptrdiff_t sc = nest.inner_stride(0), sa = nest.inner_stride(1), sb = nest.inner_stride(2);
        parallel_pieces(nest, 3 * sizeof(T), [&](const ptrdiff_t *offset, size_t n) {
            T *to = c + offset[0];
            const T *x = a + offset[1], *y = b + offset[2];
            if (sc == 1 && sa == 1 && sb == 1) {
                for (size_t i = 0; i < n; i++) {
                    to[i] = x[i] + y[i];
                }
            } else {
                for (size_t i = 0; i < n; i++) {
                    to[times(i, sc)] = x[times(i, sa)] + y[times(i, sb)];
                }
            }
        });
        return INFINI_STATUS_SUCCESS;
    }
};

constexpr infiniopKernel kernels[] = {
    make_kernel<AddState>(schema::add::op, schema::add::version),
    make_kernel<Binary<Sub>>(schema::sub::op, schema::sub::version),
    make_kernel<Binary<Mul>>(schema::mul::op, schema::mul::version),
    make_kernel<Binary<Swiglu>>(schema::swiglu::op, schema::swiglu::version),
    make_kernel<Unary<Silu>>(schema::silu::op, schema::silu::version),
    make_kernel<Unary<Gelu>>(schema::gelu::op, schema::gelu::version),
    make_kernel<Unary<Sigmoid>>(schema::sigmoid::op, schema::sigmoid::version),
    make_kernel<Unary<Relu>>(schema::relu::op, schema::relu::version),
};
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered[] = {
    &kernels[0], &kernels[1], &kernels[2], &kernels[3], &kernels[4], &kernels[5], &kernels[6], &kernels[7],
};

} // namespace
} // namespace infiniop::cpu
