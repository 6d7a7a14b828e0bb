// linear_pack: a weight into the panels that linear reads. int8 and int4 are not implemented.
#include "infiniop/schema/linear_pack.h"

#include "packed.h"

namespace infiniop::cpu {
namespace {

using schema::linear_pack::A;
using schema::linear_pack::op;
using schema::linear_pack::T;

struct State {
    infiniDtype_t dtype;
    size_t n, k, bytes;
    ptrdiff_t row_stride;

    static Status create(const Call &call, State &s, size_t &) {
        if (const Status status = own_dtype_only(call, A::format); status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        s.dtype = call.dtype(T::weight);
        s.n = call.dim(T::weight, 0);
        s.k = call.dim(T::weight, 1);
        s.row_stride = call.stride(T::weight, 0);
        s.bytes = call.dim(T::packed, 0);
        return INFINI_STATUS_SUCCESS;
    }

    static Status supports(void *, const infiniopCall *raw) { return own_dtype_only(Call(*raw), A::format); }

    Status calculate(const Run &run) const {
        const size_t needed = packed_bytes(n, k, dtype);
        if (bytes < needed) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "packed", Text("%zu bytes, as linear_packed_size says", needed),
                        Text("%zu", bytes));
        }
        char *packed = run.data<char>(T::packed);
        PackedHeader header = {};
        std::memcpy(header.magic, packed_magic, sizeof(header.magic));
        header.version = packed_version;
        header.n = int64_t(n);
        header.k = int64_t(k);
        header.dtype = uint32_t(dtype);
        header.layout = packed_layout;
        std::memcpy(packed, &header, sizeof(header));
        return visit_float(dtype, [&](auto tag) {
            using E = typename decltype(tag)::type;
            make_panels(reinterpret_cast<E *>(packed + sizeof(header)), run.data<const E>(T::weight));
            return INFINI_STATUS_SUCCESS;
        });
    }

    template <class E> void make_panels(E *panels, const E *weight) const {
        const size_t size = panel_elements(k, dtype);
        parallel_for(k ? div_up(n, panel_rows) : 0, grain_for(2 * size * sizeof(E)), [&](size_t begin, size_t end) {
            for (; begin < end; begin++) {
                const size_t row = begin * panel_rows;
                make_panel(panels + begin * size, weight + ptrdiff_t(row) * row_stride, row_stride,
                           std::min(panel_rows, n - row), k);
            }
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(op, schema::linear_pack::version, State::supports);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
