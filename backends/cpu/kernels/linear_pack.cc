// linear_pack: a weight into the panels that linear reads, in its own dtype, int8 or int4.
#include <atomic>

#include "infiniop/schema/linear_pack.h"

#include "quantise.h"

namespace infiniop::cpu {
namespace {

using schema::linear_pack::A;
using schema::linear_pack::op;
using schema::linear_pack::T;

Status refuse(const char *argument, const char *expected, const char *got) {
    return fail(INFINI_STATUS_BAD_PARAM, op, argument, expected, got);
}

struct State {
    infiniDtype_t dtype;
    size_t n, k, bytes, group_size;
    ptrdiff_t row_stride, scales_stride, zeros_stride;
    bool signed_zeros;
    uint32_t format;
    QuantisedWeight quantised;

    static Status create(const Call &call, State &s, size_t &) {
        s.dtype = call.dtype(T::weight);
        s.n = call.dim(T::weight, 0);
        s.k = call.dim(T::weight, 1);
        s.row_stride = call.stride(T::weight, 0);
        s.bytes = call.dim(T::packed, 0);
        s.format = uint32_t(call.integer(A::format));
        s.group_size = size_t(call.integer(A::group_size));
        if (s.format != 0) {
            s.quantised = quantised_weight(call, T::weight, T::scales, T::zeros, s.group_size, s.format == 2);
            s.scales_stride = call.has(T::scales) ? call.stride(T::scales, 0) : 0;
            s.zeros_stride = call.has(T::zeros) ? call.stride(T::zeros, 0) : 0;
            s.signed_zeros = call.has(T::zeros) && call.dtype(T::zeros) == INFINI_DTYPE_I8;
        }
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        const size_t needed = format ? quantised.bytes() : packed_bytes(n, k, dtype);
        if (bytes < needed) {
            return refuse("packed", Text("%zu bytes, as linear_packed_size says", needed), Text("%zu", bytes));
        }
        switch (dtype) {
        case INFINI_DTYPE_I8:
            return quantise_as<int8_t>(run);
        case INFINI_DTYPE_U8:
            return quantise_as<uint8_t>(run);
        default:
            return visit_float(dtype, [&](auto tag) {
                using E = typename decltype(tag)::type;
                return format ? quantise_as<E>(run) : make_panels(run, run.data<const E>(T::weight));
            });
        }
    }

    char *write_header(const Run &run) const {
        PackedHeader h = {};
        std::memcpy(h.magic, packed_magic, sizeof(h.magic));
        h.version = packed_version;
        h.format = format;
        h.n = int64_t(n);
        h.k = int64_t(k);
        h.group_size = int64_t(group_size);
        h.dtype = uint32_t(dtype);
        h.layout = format ? quantised.layout() : packed_layout;
        char *packed = run.data<char>(T::packed);
        std::memcpy(packed, &h, sizeof(h));
        return packed + sizeof(h);
    }

    template <class E> Status make_panels(const Run &run, const E *weight) const {
        E *panels = reinterpret_cast<E *>(write_header(run));
        const size_t size = panel_elements(k, dtype);
        parallel_for(k ? div_up(n, panel_rows) : 0, grain_for(2 * size * sizeof(E)), [&](size_t begin, size_t end) {
            for (; begin < end; begin++) {
                const size_t row = begin * panel_rows;
                make_panel(panels + begin * size, weight + ptrdiff_t(row) * row_stride, row_stride,
                           std::min(panel_rows, n - row), k);
            }
        });
        return INFINI_STATUS_SUCCESS;
    }

    template <class W> Status quantise_as(const Run &run) const {
        const Unquantised<W> from{run.data<const W>(T::weight),
                                  row_stride,
                                  run.data<const char>(T::scales),
                                  scales_stride,
                                  run.data<const uint8_t>(T::zeros),
                                  zeros_stride,
                                  signed_zeros};
        std::atomic<bool> good{true};
        parallel_for(k ? n : 0, grain_for(k * sizeof(W)), [&](size_t begin, size_t end) {
            for (; begin < end; begin++) {
                if (!fits(from.row(begin), k, quantised.int4)) {
                    good.store(false, std::memory_order_relaxed);
                }
            }
        });
        if (!good) {
            return refuse("weight", is_integer<W> ? "integers of 4 bits" : "finite elements, to be quantised",
                          "others");
        }
        char *panels = write_header(run);
        const size_t size = quantised.panel_bytes();
        parallel_for(size ? div_up(n, panel_rows) : 0, grain_for(2 * size), [&](size_t begin, size_t end) {
            for (; begin < end; begin++) {
                const size_t row = begin * panel_rows;
                make_quantised_panel(panels + begin * size, quantised, from, row, std::min(panel_rows, n - row));
            }
        });
        return INFINI_STATUS_SUCCESS;
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(op, schema::linear_pack::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
