// Our own matrix products, on the host: which kernel, with what grid.
#pragma once

#include "../cublaslt.h"
#include "product.cuh"

namespace infiniop::nvidia {

struct OwnProduct {
    ProductParams p = {};
    infiniDtype_t dtype;
    int64_t batch = 1;
    bool packed = false;
    bool swapped = false; // computes the transposed product: x is b, w is a

    // Rows and columns are counted in 32 bits.
    static Status check(const char *op, const MatrixProduct &product);
    // c = a b; of the two ways to see it, the one whose w the tensor cores can stream.
    void describe(const MatrixProduct &product);
    // c = a b, not turned: a bias runs along the columns of c.
    void keep(const MatrixProduct &product);
    // Whether multiply_few serves it.
    bool streams_few() const;
    // `run` is p with the pointers of a run.
    Status launch(ProductParams run, infinirtStream_t stream) const;
};

constexpr int64_t most_few = 16; // rows of multiply_few

} // namespace infiniop::nvidia
