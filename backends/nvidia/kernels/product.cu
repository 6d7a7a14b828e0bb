#include "product.h"

#include <algorithm>

namespace infiniop::nvidia {
namespace {

// Whether w can be read 16 bytes at a time along its columns.
bool streams(const ProductParams &p) {
    return p.w_column == 1 && p.k % 8 == 0 && p.w_row % 8 == 0 && p.w_batch % 8 == 0;
}

// y = x wᵀ for c = a b
void place(ProductParams &p, const Matrix &c, const Matrix &a, const Matrix &b) {
    p.m = int(c.rows);
    p.n = int(c.columns);
    p.k = int(a.columns);
    p.x_row = a.row;
    p.x_column = a.column;
    p.x_batch = a.batch_stride;
    p.w_row = b.column;
    p.w_column = b.row;
    p.w_batch = b.batch_stride;
    p.y_row = c.row;
    p.y_column = c.column;
    p.y_batch = c.batch_stride;
}

template <class T, bool PACKED>
Status launch_as(const ProductParams &p, bool tensor_cores, unsigned batch, infinirtStream_t stream) {
    if constexpr (sizeof(T) == 2) {
        const unsigned tiles = unsigned(ceil_div(p.n, 16));
        if (tensor_cores && p.m <= 8) {
            return launch(multiply_few<T, 1, PACKED>, dim3(tiles, 1, batch), 32 * few_warps, 0, stream, p);
        }
        if (tensor_cores && p.m <= most_few) {
            return launch(multiply_few<T, 2, PACKED>, dim3(tiles, 1, batch), 32 * few_warps, 0, stream, p);
        }
        if (tensor_cores) {
            using S = ManyShape;
            const dim3 grid(unsigned(ceil_div(p.n, S::w_rows)), unsigned(ceil_div(p.m, S::x_rows)), batch);
            return launch(multiply_many<T, PACKED>, grid, S::threads, S::shared, stream, p);
        }
    }
    using S = PlainProduct;
    const dim3 grid(unsigned(ceil_div(p.n, S::columns)), unsigned(ceil_div(p.m, S::rows)), batch);
    return launch(multiply_plain<T, PACKED>, grid, S::threads, 0, stream, p);
}

} // namespace

Status OwnProduct::check(const char *op, const MatrixProduct &product) {
    constexpr int64_t most = (int64_t(1) << 31) - 128;
    const bool fits = product.c.rows < most && product.c.columns < most && product.a.columns < most;
    return fits ? INFINI_STATUS_SUCCESS
                : fail(INFINI_STATUS_BAD_TENSOR_SHAPE, op, nullptr, "extents below 2^31 - 128", "more");
}

void OwnProduct::keep(const MatrixProduct &product) {
    place(p, product.c, product.a, product.b);
    dtype = product.dtype;
    batch = product.batch;
    p.dtype = uint32_t(dtype);
}

bool OwnProduct::streams_few() const { return dtype != INFINI_DTYPE_F32 && p.m <= most_few && streams(p); }

void OwnProduct::describe(const MatrixProduct &product) {
    keep(product);
    ProductParams turned = p;
    place(turned, product.c.transposed(), product.b.transposed(), product.a.transposed());
    swapped = streams(turned) && (!streams(p) || turned.m < p.m);
    p = swapped ? turned : p;
}

Status OwnProduct::launch(ProductParams run, infinirtStream_t stream) const {
    if (swapped) {
        std::swap(run.x, run.w);
    }
    run.x_vectors = aligned(run.x) && run.x_column == 1 && run.x_row % 8 == 0 && run.x_batch % 8 == 0;
    const bool tensor_cores = dtype != INFINI_DTYPE_F32 && (packed || (streams(run) && aligned(run.w)));
    constexpr int64_t most_blocks = 65535, most_rows = most_blocks * PlainProduct::rows; // of a grid's y and z
    const ptrdiff_t size = ptrdiff_t(element_size(dtype));
    Status status = INFINI_STATUS_SUCCESS;
    for (int64_t first = 0; first < batch; first += most_blocks) {
        for (int64_t row = 0; row < run.m && status == INFINI_STATUS_SUCCESS; row += most_rows) {
            ProductParams part = run;
            part.m = int(std::min(run.m - row, most_rows));
            part.x = static_cast<const char *>(run.x) + (first * run.x_batch + row * run.x_row) * size;
            part.w = static_cast<const char *>(run.w) + first * run.w_batch * size;
            part.y = static_cast<char *>(run.y) + (first * run.y_batch + row * run.y_row) * size;
            const unsigned count = unsigned(std::min(batch - first, most_blocks));
            status = visit_float(dtype, [&](auto tag) {
                using T = typename decltype(tag)::type;
                return packed ? launch_as<T, true>(part, tensor_cores, count, stream)
                              : launch_as<T, false>(part, tensor_cores, count, stream);
            });
        }
    }
    return status;
}

} // namespace infiniop::nvidia
