// linear: y = x Wᵀ + bias, the weight plain or packed. A few rows stream the weight once; many are a blocked product.
#include "infiniop/schema/linear.h"

#include "matmul.h"
#include "quantised.h"

namespace infiniop::cpu {
namespace {

using schema::linear::A;
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

constexpr size_t max_rounded = 512; // rows of x that are rounded at a time

Status refuse(const char *expected, const char *got) {
    return fail(INFINI_STATUS_BAD_PARAM, op, "weight", expected, got);
}

struct State {
    infiniDtype_t dtype;
    size_t m, n, k, bytes;
    ptrdiff_t y_row, x_row, weight_row;
    bool packed;
    int bits;               // of x, with a quantised weight
    BlockedProduct product; // of many rows

    bool few() const { return m <= max_few_of(dtype); }

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
        s.bits = int(call.integer(A::activation_bits));
        if (s.few()) {
            workspace = s.m * padded(s.k) * sizeof(float);
        } else {
            s.product =
                BlockedProduct(1, s.m, s.n, s.k, word_elements_of(s.dtype), s.packed ? Source::packed : Source::along);
            workspace = s.product.workspace();
        }
        if (s.packed) {
            workspace = std::max(workspace, RoundedRows::workspace(std::min(s.m, max_rounded), s.k));
        }
        return INFINI_STATUS_SUCCESS;
    }

    // The header of a packed weight that fits; of a quantised one what it describes.
    Status read_header(const char *weight, bool &quantised, QuantisedWeight &w) const {
        if (bytes < sizeof(PackedHeader)) {
            return refuse("a packed weight of at least 64 bytes", Text("%zu bytes", bytes));
        }
        PackedHeader h;
        std::memcpy(&h, weight, sizeof(h));
        if (std::memcmp(h.magic, packed_magic, sizeof(h.magic)) != 0 || h.version != packed_version) {
            return refuse(Text("a packed weight of version %u", packed_version), "another header");
        }
        quantised = QuantisedWeight::has_layout(h);
        if (h.layout != packed_layout && !quantised) {
            return refuse(Text("layout %#x, packed by this backend", packed_layout), Text("layout %#x", h.layout));
        }
        if (h.n != int64_t(n) || h.k != int64_t(k)) {
            return refuse(Text("n %zu, k %zu", n, k), Text("n %lld, k %lld", (long long)h.n, (long long)h.k));
        }
        if (!quantised && (h.format != 0 || h.dtype != uint32_t(dtype) || h.group_size != 0)) {
            return refuse(Text("format 0, dtype %d, group size 0", int(dtype)),
                          Text("format %u, dtype %u, group size %lld", h.format, h.dtype, (long long)h.group_size));
        }
        if (quantised && !w.read(h)) {
            return refuse("format 1 or 2, a dtype that linear_pack takes, a group size that divides k",
                          Text("format %u, dtype %u, group size %lld", h.format, h.dtype, (long long)h.group_size));
        }
        const size_t needed = quantised ? w.bytes() : packed_bytes(n, k, dtype);
        return bytes < needed ? refuse(Text("%zu bytes", needed), Text("%zu", bytes)) : INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        bool quantised = false;
        QuantisedWeight w;
        if (packed) {
            const Status status = read_header(run.data<const char>(T::weight), quantised, w);
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        return visit_float(dtype, [&](auto tag) {
            using E = typename decltype(tag)::type;
            quantised ? calculate_quantised<E>(run, w) : calculate_as<E>(run);
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
        if constexpr (has_row_dot && std::is_same_v<E, bf16>) {
            if (m == 1 && !packed) {
                return one_row(x, weight, store);
            }
        }
        auto *rows = run.workspace<panel_t<E>>();
        for (size_t i = 0; i < m; i++) {
            panel_t<E> *row = rows + i * padded(k);
            packed ? expand_row<float>(row, x + ptrdiff_t(i) * x_row, 1, k)
                   : expand_row<E>(row, x + ptrdiff_t(i) * x_row, 1, k);
        }
        packed ? few_rows_packed(rows, weight, store) : few_rows(rows, weight, store);
    }

    void one_row(const bf16 *x, const bf16 *weight, const Store<bf16> &store) const {
        parallel_for(div_up(n, dot_block), grain_for(dot_block * k * sizeof(bf16)), [&](size_t begin, size_t end) {
            for (size_t row = begin * dot_block; begin < end; begin++, row += dot_block) {
                const size_t count = std::min(dot_block, n - row);
                float out[dot_block];
                for (size_t r = 0; r < count; r++) {
                    out[r] = row_dot(weight + ptrdiff_t(row + r) * weight_row, x, k);
                }
                store(0, 0, row, count, out);
            }
        });
    }

    template <class E> void few_rows(const panel_t<E> *rows, const E *weight, const Store<E> &store) const {
        parallel_for(div_up(n, dot_rows), grain_for(dot_rows * k * sizeof(E)), [&](size_t begin, size_t end) {
            float out[max_few<E> * dot_block];
            for (size_t row = begin * dot_rows; row < std::min(end * dot_rows, n); row += dot_block) {
                const size_t count = std::min(dot_block, std::min(end * dot_rows, n) - row);
                dot_product(weight + ptrdiff_t(row) * weight_row, weight_row, count, rows, m, k, out);
                for (size_t j = 0; j < m; j++) {
                    store(0, j, row, count, out + j * dot_block);
                }
            }
        });
    }

    template <class E> void few_rows_packed(const panel_t<E> *rows, const E *weight, const Store<E> &store) const {
        const size_t size = panel_elements(k, dtype);
        parallel_for(div_up(n, panel_rows), grain_for(size * sizeof(E)), [&](size_t begin, size_t end) {
            float out[max_few<E> * panel_rows];
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
            [&](size_t, size_t column, size_t columns, size_t i, size_t count) {
                if (packed) {
                    const E *panel = weight + column / panel_rows * size + i * panel_rows;
                    return Rows{panel, 1, count * panel_rows * sizeof(E), 0};
                }
                return Rows{weight + ptrdiff_t(column) * weight_row + i, columns, count * sizeof(E),
                            weight_row * ptrdiff_t(sizeof(E))};
            },
            store);
    }

    // ---- int8 and int4 --------------------------------------------------------------------------------------------

    template <class E> void calculate_quantised(const Run &run, const QuantisedWeight &w) const {
        const Store<E> store{run.data<E>(T::y), y_row, run.data<const E>(T::bias)};
        const E *x = run.data<const E>(T::x);
        bits == 8 ? multiply_quantised<small_t>(run, w, x, store) : multiply_quantised<int16_t>(run, w, x, store);
    }

    template <class I, class E>
    void multiply_quantised(const Run &run, const QuantisedWeight &w, const E *x, const Store<E> &store) const {
        const char *packed = run.data<const char>(T::weight) + sizeof(PackedHeader);
        char *memory = run.workspace<char>();
        const size_t bytes = RoundedRows::row_bytes(w), panels = div_up(n, panel_rows), size = w.panel_bytes();
        const size_t room = RoundedRows::workspace(std::min(m, max_rounded), k) / std::max<size_t>(bytes, 1);
        const size_t most = std::clamp<size_t>(room, 1, max_rounded);
        for (size_t first = 0; first < m; first += most) {
            const size_t rows = std::min(most, m - first), passes = div_up(rows, panel_pass);
            const auto begin_of = [&](size_t pass) { return rows * pass / passes; };
            const auto rounded = [&](size_t pass) {
                const size_t from = begin_of(pass);
                return RoundedRows(w, memory + from * bytes, begin_of(pass + 1) - from);
            };
            parallel_for(rows, grain_for(k * 16), [&](size_t begin, size_t end) {
                for (size_t pass = 0; begin < end; pass++) {
                    for (; begin < std::min(end, begin_of(pass + 1)); begin++) {
                        round_row<I>(w, rounded(pass), begin - begin_of(pass), x + ptrdiff_t(first + begin) * x_row,
                                     bits);
                    }
                }
            });
            const size_t bands = div_up(passes, band_passes);
            parallel_for(bands * panels, grain_for(size), [&](size_t begin, size_t end) {
                for (; begin < end; begin++) {
                    const size_t band = begin / panels, panel = begin % panels;
                    const size_t from = passes * band / bands, to = passes * (band + 1) / bands;
                    const size_t row = begin_of(from), count = begin_of(to) - row;
                    float out[band_passes * panel_pass * panel_rows];
                    std::fill_n(out, count * panel_rows, 0.0f);
                    const size_t step = to - from == 1 ? w.groups : w.piece_groups();
                    for (size_t group = 0; group < w.groups; group += step) {
                        for (size_t pass = from; pass < to; pass++) {
                            add_quantised<I>(w, packed + panel * size, rounded(pass), group,
                                             std::min(group + step, w.groups),
                                             out + (begin_of(pass) - row) * panel_rows);
                        }
                    }
                    const size_t columns = std::min(panel_rows, n - panel * panel_rows);
                    for (size_t j = 0; j < count; j++) {
                        store(0, first + row + j, panel * panel_rows, columns, out + j * panel_rows);
                    }
                }
            });
        }
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(op, schema::linear::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
