// softmax, log_softmax and causal_softmax.
#include <algorithm>

#include "reduce.h"
#include "strided.h"
#include "vmath.h"

#include "infiniop/schema/causal_softmax.h"
#include "infiniop/schema/log_softmax.h"
#include "infiniop/schema/softmax.h"

namespace infiniop::cpu {
namespace {

// What an element becomes, of exp(x - max) or x - max, and of a number per row that follows from the row's sum.
struct Softmax {
    static constexpr bool of_exponentials = true;
    template <class V> static V of_sum(V sum) { return 1.0f / sum; }
    template <class V> static V of(V exponential, V inverse_sum) { return exponential * inverse_sum; }
};
struct LogSoftmax {
    static constexpr bool of_exponentials = false;
    template <class V> static V of_sum(V sum) { return log(sum); }
    template <class V> static V of(V difference, V log_sum) { return difference - log_sum; }
};

// One row of n elements; strides are Unit or ptrdiff_t. Short rows keep what pass two computes, long ones compute it
// twice. `past`: y is written past the caches, if its stride is Unit.
template <class F, class T, class SY, class SX>
void softmax_row(T *y, const T *x, size_t n, SY sy, SX sx, bool past = false) {
    using V = vector_t<T>;
    using C = compute_t<T>;
    constexpr size_t short_row = 65536 / sizeof(C);
    alignas(64) C scratch[short_row];
    const bool keeps = n <= short_row;
    const auto at = [&](size_t i, auto part) { return load_strided(x + ptrdiff_t(i) * ptrdiff_t(sx), sx, part); };
    const V largest = splat<V>(max_over<T>(n, at));
    const double total = sum_over<T>(n, [&](size_t i, auto part) {
        const V difference = at(i, part) - largest, exponential = exp(difference);
        if (keeps) {
            store(scratch + i, F::of_exponentials ? exponential : difference, part);
        }
        return keep(exponential, part, V{});
    });
    const V of_row = splat<V>(C(F::of_sum(total)));
    const auto finish = [&](size_t begin, size_t count, auto stride) {
        T *to = y + ptrdiff_t(begin) * ptrdiff_t(stride);
        const auto write = [&](size_t i, V v, auto part) {
            store_strided(to + ptrdiff_t(i) * ptrdiff_t(stride), stride, F::of(v, of_row), part);
        };
        if (keeps) {
            for_vectors<lanes<T>>(count, [&](size_t i, auto part) { write(i, load(scratch + begin + i, part), part); });
            return;
        }
        for_vectors<lanes<T>>(count, [&](size_t i, auto part) {
            const V difference = at(begin + i, part) - largest;
            write(i, F::of_exponentials ? V(exp(difference)) : difference, part);
        });
    };
    if constexpr (std::is_same_v<SY, Unit>) {
        write_lines(y, n, past, finish);
    } else {
        finish(0, n, sy);
    }
}

template <class F, class T> void softmax_row(T *y, const T *x, size_t n, ptrdiff_t sy, ptrdiff_t sx, bool past) {
    if (sy == 1 && sx == 1) {
        softmax_row<F>(y, x, n, Unit{}, Unit{}, past);
    } else {
        softmax_row<F, T, ptrdiff_t, ptrdiff_t>(y, x, n, sy, sx);
    }
}

// Columns whose rows are normalised side by side, when the lanes lie across the axis: rows are walked as they lie in
// memory.
constexpr size_t strip = 256;

template <class F, class T> void softmax_strip(T *y, const T *x, size_t n, ptrdiff_t sy, ptrdiff_t sx, size_t columns) {
    using C = compute_t<T>;
    using V = vector_t<T>;
    constexpr size_t L = lanes<T>, block = 256; // rows that one partial sum takes
    alignas(64) C largest[strip], total[strip] = {}, partial[strip];
    std::fill(largest, largest + strip, -std::numeric_limits<C>::infinity());
    for (size_t i = 0; i < n; i++) {
        for_vectors<L>(columns, [&](size_t j, auto part) {
            store(largest + j, max(load(largest + j), load(x + ptrdiff_t(i) * sx + j, part)));
        });
    }
    for (size_t first = 0; first < n; first += block) {
        std::fill(partial, partial + strip, C(0));
        for (size_t i = first; i < n && i < first + block; i++) {
            for_vectors<L>(columns, [&](size_t j, auto part) {
                const V difference = load(x + ptrdiff_t(i) * sx + j, part) - load(largest + j);
                store(partial + j, load(partial + j) + exp(difference));
            });
        }
        for (size_t j = 0; j < strip; j++) {
            total[j] += partial[j];
        }
    }
    for (size_t i = 0; i < n; i++) {
        for_vectors<L>(columns, [&](size_t j, auto part) {
            const V difference = load(x + ptrdiff_t(i) * sx + j, part) - load(largest + j), sum = load(total + j);
            const V value = F::of_exponentials ? V(exp(difference)) : difference;
            store(y + ptrdiff_t(i) * sy + j, F::of(value, V(F::of_sum(sum))), part);
        });
    }
}

// Along any axis of any layout: the nest holds the other axes.
template <class F> struct AxisState {
    Nest<2> nest;
    size_t n;
    ptrdiff_t stride_y, stride_x;
    infiniDtype_t dtype;

    static Status create(const Call &call, AxisState &state, size_t &) {
        const int64_t rank = int64_t(call.rank(0)), attribute = call.integer(0);
        const size_t axis = size_t(attribute < 0 ? attribute + rank : attribute);
        state.dtype = call.dtype(0);
        state.n = rank ? call.dim(0, axis) : 1;
        state.stride_y = rank ? call.stride(0, axis) : 1;
        state.stride_x = rank ? call.stride(1, axis) : 1;
        return Nest<2>::of(call, {0, 1}, state.nest, axis);
    }

    Status calculate(const Run &run) const {
        return visit_float64(dtype, [&](auto tag) {
            using T = typename decltype(tag)::type;
            if (n > 0) {
                calculate_as(run.data<T>(0), run.data<T>(1));
            }
            return INFINI_STATUS_SUCCESS;
        });
    }

    template <class T> void calculate_as(T *y, const T *x) const {
        const bool along = (stride_y == 1 && stride_x == 1) || nest.inner_stride(0) != 1 || nest.inner_stride(1) != 1;
        if (along || nest.inner() == 1) {
            const bool past = x != y && exceeds_cache(nest.count * n * 2 * sizeof(T));
            parallel_positions(nest, 8 * n * sizeof(T), [&](const ptrdiff_t *offset) {
                softmax_row<F>(y + offset[0], x + offset[1], n, stride_y, stride_x, past);
            });
            return;
        }
        const auto columns = [&](const ptrdiff_t *offset, size_t count) {
            softmax_strip<F>(y + offset[0], x + offset[1], n, stride_y, stride_x, count);
        };
        parallel_pieces(nest, 8 * n * sizeof(T), columns, strip);
    }
};

// Row i keeps the first i + 1 + (total - rows) columns; the rest is 0.
struct CausalState {
    size_t batch, rows, columns;
    ptrdiff_t y_strides[3], x_strides[3]; // batch, row, column
    infiniDtype_t dtype;

    static Status create(const Call &call, CausalState &state, size_t &) {
        const size_t rank = call.rank(0), first = 3 - rank;
        state.dtype = call.dtype(0);
        state.batch = rank == 3 ? call.dim(0, 0) : 1;
        state.rows = call.dim(0, rank - 2);
        state.columns = call.dim(0, rank - 1);
        state.y_strides[0] = state.x_strides[0] = 0;
        for (size_t axis = 0; axis < rank; axis++) {
            state.y_strides[first + axis] = call.stride(0, axis);
            state.x_strides[first + axis] = call.stride(1, axis);
        }
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        return visit_float(dtype, [&](auto tag) {
            using T = typename decltype(tag)::type;
            T *y = run.data<T>(0);
            const T *x = run.data<T>(1);
            parallel_for(batch * rows, grain_for(8 * columns * sizeof(T)), [&](size_t begin, size_t end) {
                for (size_t r = begin; r < end; r++) {
                    const ptrdiff_t b = ptrdiff_t(r / rows), i = ptrdiff_t(r % rows);
                    row(y + b * y_strides[0] + i * y_strides[1], x + b * x_strides[0] + i * x_strides[1], size_t(i));
                }
            });
            return INFINI_STATUS_SUCCESS;
        });
    }

    template <class T> void row(T *y, const T *x, size_t i) const {
        const size_t kept = i + 1 + (columns - rows);
        softmax_row<Softmax>(y, x, kept, y_strides[2], x_strides[2], false);
        const T zero{};
        copy_strided(y + ptrdiff_t(kept) * y_strides[2], y_strides[2], &zero, 0, columns - kept);
    }
};

constexpr infiniopKernel kernels[] = {
    make_kernel<AxisState<Softmax>>(schema::softmax::op, schema::softmax::version),
    make_kernel<AxisState<LogSoftmax>>(schema::log_softmax::op, schema::log_softmax::version),
    make_kernel<CausalState>(schema::causal_softmax::op, schema::causal_softmax::version),
};
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered[] = {
    &kernels[0],
    &kernels[1],
    &kernels[2],
};

} // namespace
} // namespace infiniop::cpu
