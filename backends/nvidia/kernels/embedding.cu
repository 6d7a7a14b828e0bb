// embedding and select_last_token_hidden: a few threads copy the row that an index names.
#include "../checked.h"
#include "../layout.h"
#include "integers.cuh"
#include "rows.cuh"

#include "infiniop/schema/embedding.h"
#include "infiniop/schema/select_last_token_hidden.h"

namespace infiniop::nvidia {
namespace {

// Row r of the output is row index(r) + shift of the source, where there is such a row.
struct Parameters {
    Nest<2> rows; // output (units), ids (elements)
    void *output;
    const void *source, *ids;
    infiniDtype_t id_dtype;
    int64_t shift, source_rows, source_stride; // units
    int64_t units, output_last, source_last;
};

template <class U> __global__ void __launch_bounds__(1024) gather_kernel(Parameters p) {
    const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= p.rows.count) {
        return;
    }
    int64_t offset[2];
    p.rows.locate(row, p.rows.rank, offset);
    const int64_t index = integer_at(p.ids, p.id_dtype, offset[1]) + p.shift;
    if (index < 0 || index >= p.source_rows) {
        return;
    }
    copy_row(static_cast<U *>(p.output) + offset[0], p.output_last,
             static_cast<const U *>(p.source) + index * p.source_stride, p.source_last, p.units);
}

// `p` in elements, with data; cut into units here.
Status gather(Parameters p, size_t element, const Limits &limits, infinirtStream_t stream) {
    if (p.rows.count == 0 || p.units == 0) {
        return INFINI_STATUS_SUCCESS;
    }
    int64_t all = p.source_stride; // what every stride is a multiple of
    for (int axis = 0; axis < p.rows.rank; axis++) {
        all |= p.rows.strides[0][axis];
    }
    const RowShape shape = RowShape::of(p.units, element, p.output_last == 1 && p.source_last == 1,
                                        {p.output, p.source}, {all * int64_t(element)});
    const int64_t elements = int64_t(shape.unit / element);
    for (int axis = 0; axis < p.rows.rank; axis++) {
        p.rows.strides[0][axis] /= elements;
    }
    p.source_stride /= elements;
    p.units = shape.units;
    const dim3 block = shape.block(limits);
    return visit_size(shape.unit, [&](auto tag) {
        return launch(gather_kernel<typename decltype(tag)::type>, row_grid(p.rows.count, block), block, 0, stream, p);
    });
}

struct Embedding {
    using T = schema::embedding::T;
    Parameters p;
    size_t element;
    Limits limits_;

    static Status create(const Call &call, Embedding &state, size_t &) {
        Parameters &p = state.p;
        p.id_dtype = call.dtype(T::input);
        p.source_rows = int64_t(call.dim(T::weight, 0));
        p.source_stride = call.stride(T::weight, 0);
        p.units = int64_t(call.dim(T::weight, 1));
        p.output_last = call.last_stride(T::output);
        p.source_last = call.last_stride(T::weight);
        state.element = element_size(call.dtype(T::output));
        state.limits_ = limits(call);
        return nest_of<2>(call, {T::output, T::input}, p.rows, 0, call.rank(T::input), false);
    }

    Status calculate(const Run &run) const {
        Parameters q = p;
        q.output = run.data<void>(T::output);
        q.source = run.data<void>(T::weight);
        q.ids = run.data<void>(T::input);
        return gather(q, element, limits_, run.stream());
    }
};

struct SelectLastTokenHidden {
    using T = schema::select_last_token_hidden::T;
    Parameters p;
    size_t element;
    Limits limits_;

    static Status create(const Call &call, SelectLastTokenHidden &state, size_t &) {
        Parameters &p = state.p;
        p.id_dtype = INFINI_DTYPE_I32;
        p.shift = -1;
        p.source_rows = int64_t(call.dim(T::hidden_states, 0) * call.dim(T::hidden_states, 1));
        p.units = p.source_stride = int64_t(call.last_dim(T::hidden_states));
        p.output_last = p.source_last = 1;
        p.rows.count = int64_t(call.dim(T::output, 1));
        p.rows.rank = 1;
        p.rows.shape[0] = p.rows.count;
        p.rows.strides[0][0] = p.units;
        p.rows.strides[1][0] = 1;
        state.element = element_size(call.dtype(T::output));
        state.limits_ = limits(call);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        Parameters q = p;
        q.output = run.data<void>(T::output);
        q.source = run.data<void>(T::hidden_states);
        q.ids = run.data<int32_t>(T::input_offsets) + 1;
        if (checked()) {
            const Status status =
                check_values({schema::select_last_token_hidden::op, "input_offsets", q.ids, q.id_dtype, p.rows.count},
                             1, p.source_rows, run.stream());
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        return gather(q, element, limits_, run.stream());
    }
};

constexpr infiniopKernel embedding = make_kernel<Embedding>(schema::embedding::op, schema::embedding::version);
constexpr infiniopKernel select =
    make_kernel<SelectLastTokenHidden>(schema::select_last_token_hidden::op, schema::select_last_token_hidden::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered[] = {&embedding, &select};

} // namespace
} // namespace infiniop::nvidia
