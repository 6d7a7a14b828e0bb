// gemm: C <- alpha A B + beta C. Two forms: a few rows (or columns) against a large matrix, and the blocked product.
#include "infiniop/schema/gemm.h"

#include "matmul.h"
#include "matvec.h"

namespace infiniop::cpu {
namespace {

using schema::gemm::A;
using schema::gemm::T;

struct Operand {
    ptrdiff_t row, column, batch;

    Operand transposed() const { return {column, row, batch}; }
};

Operand operand(const Call &call, size_t tensor) {
    const size_t r = call.rank(tensor);
    const bool batched = r == 3 && call.dim(tensor, 0) != 1;
    return {call.stride(tensor, r - 2), call.stride(tensor, r - 1), batched ? call.stride(tensor, 0) : 0};
}

// Stores alpha * sum + beta * c.
template <class E> struct Store {
    E *c;
    Operand at;
    float alpha, beta;

    void operator()(size_t batch, size_t row, size_t column, size_t n, const float *sums) const {
        E *p = c + ptrdiff_t(batch) * at.batch + ptrdiff_t(row) * at.row + ptrdiff_t(column) * at.column;
        if (at.column == 1) {
            for_vectors<width>(n, [&](size_t i, auto part) {
                const vf sum = load(sums + i, part) * alpha;
                store(p + i, beta == 0.0f ? sum : sum + load(p + i, part) * beta, part);
            });
            return;
        }
        for (size_t i = 0; i < n; i++, p += at.column) {
            *p = put<E>(beta == 0.0f ? sums[i] * alpha : sums[i] * alpha + get(*p) * beta);
        }
    }
};

struct Gemm {
    enum class Form { dot, scaled_rows, blocked };
    static constexpr size_t max_scaled = 64;     // rows; from there on packing pays
    static constexpr size_t least_columns = 256; // for so many rows; with fewer columns there are few strips
    static constexpr size_t max_short = 4;       // rows, where the rest is small too
    static constexpr size_t max_sums = 16384;    // of the scaled-rows form at a time

    infiniDtype_t dtype;
    size_t batch, m, n, k;
    Operand c, a, b;
    bool swapped = false; // computes the transposed product
    Form form;
    size_t strip; // columns of the scaled-rows form at a time
    BlockedProduct product;

    static Status create(const Call &call, Gemm &s, size_t &workspace) {
        const size_t r = call.rank(T::c);
        s.dtype = call.dtype(T::c);
        s.batch = r == 3 ? call.dim(T::c, 0) : 1;
        s.m = call.dim(T::c, r - 2);
        s.n = call.dim(T::c, r - 1);
        s.k = call.last_dim(T::a);
        s.c = operand(call, T::c);
        s.a = operand(call, T::a);
        s.b = operand(call, T::b);
        s.choose();
        if (s.form == Form::blocked) {
            s.product = BlockedProduct(s.batch, s.m, s.n, s.k, word_elements_of(s.dtype),
                                       s.b.column == 1 ? Source::across : Source::along);
        }
        workspace = s.form == Form::blocked ? s.product.workspace() : s.batch * s.m * padded(s.k) * sizeof(float);
        return INFINI_STATUS_SUCCESS;
    }

    void choose() {
        const size_t least = std::min(m, n);
        const Operand large = n < m ? a.transposed() : b; // what the few rows are multiplied with
        const size_t most = std::max(m, n), rows = most < least_columns ? max_short : max_scaled;
        const bool whole = k >= chunk_of(dtype) || least <= max_short; // a dot product fills its vectors, or is alone
        form = k == 0                                                  ? Form::blocked
               : least <= max_few_of(dtype) && large.row == 1 && whole ? Form::dot
               : least <= rows && large.column == 1                    ? Form::scaled_rows
                                                                       : Form::blocked;
        if (form == Form::blocked ? c.column != 1 : n < m) {
            swap();
        }
        strip = std::min(round_up(div_up(n, 2 * thread_count()), 16 * width),
                         max_sums / std::clamp<size_t>(m, 1, max_scaled) / tile_columns * tile_columns);
    }

    void swap() {
        swapped = !swapped;
        std::swap(m, n);
        const Operand left = a;
        a = b.transposed();
        b = left.transposed();
        c = c.transposed();
    }

    Status calculate(const Run &run) const {
        return visit_float(dtype, [&](auto tag) {
            calculate_as<typename decltype(tag)::type>(run);
            return INFINI_STATUS_SUCCESS;
        });
    }

    template <class E> void calculate_as(const Run &run) const {
        const E *pa = run.data<const E>(swapped ? T::b : T::a), *pb = run.data<const E>(swapped ? T::a : T::b);
        const Store<E> store{run.data<E>(T::c), c, float(run.real(A::alpha)), float(run.real(A::beta))};
        if (form == Form::blocked) {
            using P = panel_t<E>;
            product.run<P>(
                run.workspace<void>(),
                [&](P *dst, size_t g, size_t row, size_t rows, size_t i, size_t count) {
                    pack_panel<tile_rows>(
                        dst, pa + ptrdiff_t(g) * a.batch + ptrdiff_t(row) * a.row + ptrdiff_t(i) * a.column, a.row,
                        a.column, rows, count);
                },
                [&](P *dst, size_t g, size_t column, size_t columns, size_t i, size_t count) {
                    pack_panel<tile_columns>(
                        dst, pb + ptrdiff_t(g) * b.batch + ptrdiff_t(column) * b.column + ptrdiff_t(i) * b.row,
                        b.column, b.row, columns, count);
                    return Panel<P>{dst};
                },
                [&](size_t g, size_t column, size_t columns, size_t i, size_t count) {
                    return Rows{pb + ptrdiff_t(g) * b.batch + ptrdiff_t(column) * b.column + ptrdiff_t(i) * b.row,
                                columns, count * sizeof(E), b.column * ptrdiff_t(sizeof(E))};
                },
                store);
            return;
        }
        auto *x = run.workspace<panel_t<E>>();
        if (form == Form::dot) {
            expand<E>(x, pa);
            dot_form(x, pb, store);
        } else {
            expand<float>(x, pa);
            scaled_rows_form(x, pb, store);
        }
    }

    template <class Order, class P, class E> void expand(P *x, const E *pa) const {
        parallel_for(batch * m, grain_for(k * 4), [&](size_t begin, size_t end) {
            for (size_t i = begin; i < end; i++) {
                const E *row = pa + ptrdiff_t(i / m) * a.batch + ptrdiff_t(i % m) * a.row;
                expand_row<Order>(x + i * padded(k), row, a.column, k);
            }
        });
    }

    template <class E> void dot_form(const panel_t<E> *x, const E *pb, const Store<E> &store) const {
        const size_t groups = div_up(n, dot_rows);
        parallel_for(batch * groups, grain_for(dot_rows * k * sizeof(E)), [&](size_t begin, size_t end) {
            float out[max_few<E> * dot_block];
            while (begin < end) {
                const size_t g = begin / groups, row = begin % groups * dot_rows;
                const size_t taken = std::min({end - begin, groups - begin % groups, dot_block / dot_rows});
                const size_t count = std::min(taken * dot_rows, n - row);
                dot_product(pb + ptrdiff_t(g) * b.batch + ptrdiff_t(row) * b.column, b.column, count,
                            x + g * m * padded(k), m, k, out);
                for (size_t j = 0; j < m; j++) {
                    store(g, j, row, count, out + j * dot_block);
                }
                begin += taken;
            }
        });
    }

    template <class E> void scaled_rows_form(const panel_t<E> *x, const E *pb, const Store<E> &store) const {
        const size_t strips = div_up(n, strip);
        parallel_for(batch * strips, grain_for(strip * k * sizeof(E)), [&](size_t begin, size_t end) {
            alignas(vector_bytes) float out[max_sums];
            for (; begin < end; begin++) {
                const size_t g = begin / strips, column = begin % strips * strip, count = std::min(strip, n - column);
                scaled_rows(pb + ptrdiff_t(g) * b.batch + ptrdiff_t(column), b.row, count, x + g * m * padded(k), m, k,
                            out, strip);
                for (size_t j = 0; j < m; j++) {
                    store(g, j, column, count, out + j * strip);
                }
            }
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<Gemm>(schema::gemm::op, schema::gemm::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
