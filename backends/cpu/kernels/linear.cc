// linear: y = x Wᵀ + bias, the weight plain or packed. A few rows stream the weight once; many are a blocked product.
#include "infiniop/schema/linear.h"

#include "matmul.h"
#include "packed.h"

namespace infiniop::cpu {
namespace {

using schema::linear::op;
using schema::linear::T;

// Stores sums + bias.
template <class E> struct Store {
    E *y;
    ptrdiff_t row_stride;
    const E *bias;

    void operator()(size_t, size_t row, size_t column, size_t n, const float *sums) const {
        E *p = y + ptrdiff_t(row) * row_stride + column;
        for_vectors<width>(n, [&](size_t i, auto part) {
            const vf sum = load(sums + i, part);
            store(p + i, bias ? sum + load(bias + column + i, part) : sum, part);
        });
    }
};

Status refuse(const char *expected, const char *got) {
    return fail(INFINI_STATUS_BAD_PARAM, op, "weight", expected, got);
}

struct State {
    infiniDtype_t dtype;
    size_t m, n, k, bytes;
    ptrdiff_t y_row, x_row, weight_row;
    bool packed;
    BlockedProduct product; // of many rows

    bool few() const { return m <= max_few; }

    static Status create(const Call &call, State &s, size_t &workspace) {
        s.dtype = call.dtype(T::x);
        s.m = call.dim(T::y, 0);
        s.n = call.dim(T::y, 1);
        s.k = call.dim(T::x, 1);
        s.y_row = call.stride(T::y, 0);
        s.x_row = call.stride(T::x, 0);
        s.packed = call.rank(T::weight) == 1;
        s.bytes = s.packed ? call.dim(T::weight, 0) : 0;
        s.weight_row = s.packed ? 0 : call.stride(T::weight, 0);
        if (s.few()) {
            workspace = s.m * padded(s.k) * sizeof(float);
        } else {
            s.product =
                BlockedProduct(1, s.m, s.n, s.k, word_elements_of(s.dtype), s.packed ? Source::packed : Source::along);
            workspace = s.product.workspace();
        }
        return INFINI_STATUS_SUCCESS;
    }

    Status check(const char *weight) const {
        if (bytes < sizeof(PackedHeader)) {
            return refuse("a packed weight of at least 64 bytes", Text("%zu bytes", bytes));
        }
        PackedHeader h;
        std::memcpy(&h, weight, sizeof(h));
        if (std::memcmp(h.magic, packed_magic, sizeof(h.magic)) != 0 || h.version != packed_version) {
            return refuse(Text("a packed weight of version %u", packed_version), "another header");
        }
        if (h.layout != packed_layout) {
            return refuse(Text("layout %#x, packed by this backend", packed_layout), Text("layout %#x", h.layout));
        }
        if (h.format != 0 || h.n != int64_t(n) || h.k != int64_t(k) || h.dtype != uint32_t(dtype)) {
            return refuse(
                Text("format 0, n %zu, k %zu, dtype %d", n, k, int(dtype)),
                Text("format %u, n %lld, k %lld, dtype %u", h.format, (long long)h.n, (long long)h.k, h.dtype));
        }
        if (bytes < packed_bytes(n, k, dtype)) {
            return refuse(Text("%zu bytes", packed_bytes(n, k, dtype)), Text("%zu", bytes));
        }
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        if (packed) {
            if (const Status status = check(run.data<const char>(T::weight)); status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        return visit_float(dtype, [&](auto tag) {
            calculate_as<typename decltype(tag)::type>(run);
            return INFINI_STATUS_SUCCESS;
        });
    }

    template <class E> void calculate_as(const Run &run) const {
        const Store<E> store{run.data<E>(T::y), y_row, run.data<const E>(T::bias)};
        const E *x = run.data<const E>(T::x);
        const E *weight = packed ? reinterpret_cast<const E *>(run.data<const char>(T::weight) + sizeof(PackedHeader))
                                 : run.data<const E>(T::weight);
        if (!few()) {
            return many_rows(run.workspace<void>(), x, weight, store);
        }
        float *rows = run.workspace<float>();
        for (size_t i = 0; i < m; i++) {
            float *row = rows + i * padded(k);
            packed ? expand_row<float>(row, x + ptrdiff_t(i) * x_row, 1, k)
                   : expand_row<E>(row, x + ptrdiff_t(i) * x_row, 1, k);
        }
        packed ? few_rows_packed(rows, weight, store) : few_rows(rows, weight, store);
    }

    template <class E> void few_rows(const float *rows, const E *weight, const Store<E> &store) const {
        parallel_for(div_up(n, dot_rows), grain_for(dot_rows * k * sizeof(E)), [&](size_t begin, size_t end) {
            float out[max_few * dot_block];
            for (size_t row = begin * dot_rows; row < std::min(end * dot_rows, n); row += dot_block) {
                const size_t count = std::min(dot_block, std::min(end * dot_rows, n) - row);
                dot_product(weight + ptrdiff_t(row) * weight_row, weight_row, count, rows, m, k, out);
                for (size_t j = 0; j < m; j++) {
                    store(0, j, row, count, out + j * dot_block);
                }
            }
        });
    }

    template <class E> void few_rows_packed(const float *rows, const E *weight, const Store<E> &store) const {
        const size_t size = panel_elements(k, dtype);
        parallel_for(div_up(n, panel_rows), grain_for(size * sizeof(E)), [&](size_t begin, size_t end) {
            float out[max_few * panel_rows];
            for (; begin < end; begin++) {
                panel_product(weight + begin * size, rows, m, k, out);
                const size_t row = begin * panel_rows;
                for (size_t j = 0; j < m; j++) {
                    store(0, j, row, std::min(panel_rows, n - row), out + j * panel_rows);
                }
            }
        });
    }

    template <class E> void many_rows(void *workspace, const E *x, const E *weight, const Store<E> &store) const {
        using P = panel_t<E>;
        const size_t size = panel_elements(k, dtype);
        product.run<P>(
            workspace,
            [&](P *dst, size_t, size_t row, size_t rows, size_t i, size_t count) {
                pack_panel<tile_rows>(dst, x + ptrdiff_t(row) * x_row + i, x_row, 1, rows, count);
            },
            [&](P *dst, size_t, size_t column, size_t columns, size_t i, size_t count) {
                if (packed) {
                    return panel_of(dst, weight + column / panel_rows * size, column % panel_rows, i, count);
                }
                pack_panel<tile_columns>(dst, weight + ptrdiff_t(column) * weight_row + i, weight_row, 1, columns,
                                         count);
                return Panel<P>{dst};
            },
            store);
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(op, schema::linear::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
