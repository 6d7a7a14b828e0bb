// Matrix products through cuBLASLt, which is found at run time and may be absent. What is chosen at create holds for
// every run; a product that cuBLASLt cannot take is left to our own kernels.
#pragma once

#include <memory>
#include <mutex>

#include "nvidia.h"

namespace infiniop::nvidia {

// A matrix [rows, columns] of one of the half types or f32; strides in elements.
struct Matrix {
    int64_t rows, columns;
    ptrdiff_t row, column;
    int64_t batch_stride = 0;

    Matrix transposed() const { return {columns, rows, column, row, batch_stride}; }
};

// c = alpha a b + beta c (+ bias for each column of c).
struct MatrixProduct {
    infiniDtype_t dtype;
    Matrix c, a, b;
    int64_t batch = 1;
    bool bias = false;
};

class Cublas {
public:
    // nullptr where the library or an algorithm is missing, or the strides are none that it takes.
    static std::unique_ptr<Cublas> create(const MatrixProduct &product, int device_id);
    ~Cublas();
    Cublas(const Cublas &) = delete;
    Cublas &operator=(const Cublas &) = delete;

    size_t workspace() const;
    // Whether there is an algorithm for memory aligned like this.
    bool takes(const void *c, const void *a, const void *b, const void *bias) const;
    Status run(void *c, const void *a, const void *b, const void *bias, float alpha, float beta, void *workspace,
               infinirtStream_t stream);

private:
    struct Choice;
    Cublas() = default;
    bool choose(const MatrixProduct &product, int device_id);

    void *handle_ = nullptr, *product_ = nullptr, *a_ = nullptr, *b_ = nullptr, *c_ = nullptr;
    bool swapped_ = false, bias_ = false;
    std::unique_ptr<Choice> aligned_, unaligned_; // for pointers to 16 bytes; (optional) to elements
    std::mutex bias_pointer_;                     // which lies in product_
};

// Why cuBLASLt cannot be used; nullptr if it can.
const char *cublas_missing();

} // namespace infiniop::nvidia
