#include "cublaslt.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>

#include "library.h"

namespace infiniop::nvidia {
namespace {

// ---- what cublasLt.h says (version 11 and later; NVIDIA cuBLAS documentation, "Using the cuBLASLt API") ----------

using Result = int; // 0: success

struct Algorithm {
    uint64_t data[8];
};

struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    Result state;
    float waves;
    int reserved[4];
};
static_assert(sizeof(Heuristic) == 96);

enum : int {
    real_f32 = 0,
    real_f16 = 2,
    real_bf16 = 14,
    compute_f32 = 68,
    compute_tf32 = 77,
    operation_n = 0,
    operation_t = 1,
    product_transpose_a = 3,
    product_transpose_b = 4,
    product_epilogue = 7,
    product_bias_pointer = 8,
    epilogue_bias = 4,
    layout_batch_count = 5,
    layout_batch_stride = 6,
    preference_workspace = 1,
    preference_reductions = 3,
    reduction_in_compute_type = 2,
    preference_alignment_a = 5, // then b, c, d
};

struct Library {
    Result (*create)(void **);
    Result (*product_create)(void **, int compute, int scale_type);
    Result (*product_set)(void *, int, const void *, size_t);
    Result (*product_destroy)(void *);
    Result (*layout_create)(void **, int type, uint64_t rows, uint64_t columns, int64_t leading);
    Result (*layout_set)(void *, int, const void *, size_t);
    Result (*layout_destroy)(void *);
    Result (*preference_create)(void **);
    Result (*preference_set)(void *, int, const void *, size_t);
    Result (*preference_destroy)(void *);
    Result (*heuristic)(void *, void *, void *, void *, void *, void *, void *, int, Heuristic *, int *);
    Result (*matmul)(void *, void *, const void *, const void *, void *, const void *, void *, const void *,
                     const void *, void *, void *, void *, const Algorithm *, void *, size_t, cudaStream_t);
    std::string why; // it is missing; else empty

    Library() {
        void *library = nullptr;
        for (const char *name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
            std::string reason;
            library = library
                          ? library
                          : open_library("INFINIOP_CUBLASLT", name, {"nvidia/cu13/lib", "nvidia/cublas/lib"}, reason);
            why += (why.empty() ? "" : "; ") + reason;
        }
        if (!library) {
            return;
        }
        why.clear();
        const auto find = [&](auto &function, const char *name) {
            function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
            if (!function) {
                why = std::string("no ") + name + " in libcublasLt";
            }
        };
        find(create, "cublasLtCreate");
        find(product_create, "cublasLtMatmulDescCreate");
        find(product_set, "cublasLtMatmulDescSetAttribute");
        find(product_destroy, "cublasLtMatmulDescDestroy");
        find(layout_create, "cublasLtMatrixLayoutCreate");
        find(layout_set, "cublasLtMatrixLayoutSetAttribute");
        find(layout_destroy, "cublasLtMatrixLayoutDestroy");
        find(preference_create, "cublasLtMatmulPreferenceCreate");
        find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
        find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
        find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
        find(matmul, "cublasLtMatmul");
    }
};

const Library &library() {
    static const Library found;
    return found;
}

// The device's handle, which lives for the rest of the process; the device is current.
void *handle_of(int device_id) {
    static std::mutex mutex;
    static std::map<int, void *> handles;
    const std::lock_guard lock(mutex);
    const auto found = handles.find(device_id);
    if (found != handles.end()) {
        return found->second;
    }
    void *handle = nullptr;
    if (library().create(&handle) != 0) {
        return nullptr;
    }
    return handles[device_id] = handle;
}

int type_of(infiniDtype_t dtype) {
    return dtype == INFINI_DTYPE_F16 ? real_f16 : dtype == INFINI_DTYPE_BF16 ? real_bf16 : real_f32;
}

// A matrix as columns, one after the other, transposed or not.
struct Columns {
    int64_t rows, columns, leading;
    bool transposed;
};

// False where no leading dimension describes the strides.
bool as_columns(const Matrix &m, Columns &out) {
    const auto fits = [](int64_t rows, int64_t columns, ptrdiff_t row, ptrdiff_t column) {
        return (row == 1 || rows == 1) && (column >= rows || columns == 1);
    };
    if (fits(m.rows, m.columns, m.row, m.column)) {
        out = {m.rows, m.columns, m.columns == 1 ? m.rows : int64_t(m.column), false};
    } else if (fits(m.columns, m.rows, m.column, m.row)) {
        out = {m.columns, m.rows, m.rows == 1 ? m.columns : int64_t(m.row), true};
    } else {
        return false;
    }
    return m.batch_stride >= 0;
}

void *layout(const MatrixProduct &product, const Columns &m, int64_t batch_stride) {
    void *made = nullptr;
    if (library().layout_create(&made, type_of(product.dtype), m.rows, m.columns, m.leading) != 0) {
        return nullptr;
    }
    const int32_t count = int32_t(product.batch);
    if (library().layout_set(made, layout_batch_count, &count, sizeof(count)) != 0 ||
        library().layout_set(made, layout_batch_stride, &batch_stride, sizeof(batch_stride)) != 0) {
        library().layout_destroy(made);
        return nullptr;
    }
    return made;
}

constexpr size_t workspace_alignment = 256;

} // namespace

struct Cublas::Choice {
    Heuristic found;
};

const char *cublas_missing() { return library().why.empty() ? nullptr : library().why.c_str(); }

std::unique_ptr<Cublas> Cublas::create(const MatrixProduct &product, int device_id) {
    if (cublas_missing()) {
        static const bool told = [] {
            host->log(INFINIOP_LOG_INFO, Text("nvidia: matrix products without cuBLASLt (%.100s)", cublas_missing()));
            return true;
        }();
        (void)told;
        return nullptr;
    }
    const Matrix &c = product.c;
    if (c.rows == 0 || c.columns == 0 || product.a.columns == 0 || product.batch == 0 || product.batch > INT32_MAX) {
        return nullptr;
    }
    std::unique_ptr<Cublas> made(new Cublas());
    return made->choose(product, device_id) ? std::move(made) : nullptr;
}

bool Cublas::choose(const MatrixProduct &product, int device_id) {
    // cuBLASLt writes columns: rows are those of the transposed product, cᵀ = bᵀ aᵀ. A bias runs along its columns.
    Columns c, a, b;
    swapped_ = product.bias || product.c.column == 1;
    const Matrix &left = product.a, &right = product.b;
    const bool described = as_columns(swapped_ ? product.c.transposed() : product.c, c) &&
                           as_columns(swapped_ ? right.transposed() : left, a) &&
                           as_columns(swapped_ ? left.transposed() : right, b);
    handle_ = described && !c.transposed ? handle_of(device_id) : nullptr;
    if (!handle_) {
        return false;
    }
    const Library &lt = library();
    a_ = layout(product, a, swapped_ ? right.batch_stride : left.batch_stride);
    b_ = layout(product, b, swapped_ ? left.batch_stride : right.batch_stride);
    c_ = layout(product, c, product.c.batch_stride);
    const char *tf32 = getenv("INFINIOP_TF32");
    const bool short_products = product.dtype == INFINI_DTYPE_F32 && tf32 && *tf32 == '1';
    const int compute = short_products ? compute_tf32 : compute_f32;
    if (!a_ || !b_ || !c_ || lt.product_create(&product_, compute, real_f32) != 0) {
        return false;
    }
    const auto set = [&](int attribute, auto value) {
        return lt.product_set(product_, attribute, &value, sizeof(value)) == 0;
    };
    bias_ = product.bias;
    if (!set(product_transpose_a, int(a.transposed ? operation_t : operation_n)) ||
        !set(product_transpose_b, int(b.transposed ? operation_t : operation_n)) ||
        (bias_ && !set(product_epilogue, int(epilogue_bias)))) {
        return false;
    }
    const auto choice = [&](uint32_t alignment) -> std::unique_ptr<Choice> {
        constexpr size_t most_workspace = 32 << 20; // what NVIDIA advises for Hopper
        void *preference = nullptr;
        // A bias pointer is not followed here, but tells its alignment.
        if ((bias_ && !set(product_bias_pointer, reinterpret_cast<const void *>(uintptr_t(alignment)))) ||
            lt.preference_create(&preference) != 0) {
            return nullptr;
        }
        constexpr uint32_t reductions = reduction_in_compute_type; // parts of a sum are not rounded to halves
        bool good = lt.preference_set(preference, preference_workspace, &most_workspace, sizeof(most_workspace)) == 0 &&
                    lt.preference_set(preference, preference_reductions, &reductions, sizeof(reductions)) == 0;
        for (int i = 0; i < 4; i++) {
            good =
                good && lt.preference_set(preference, preference_alignment_a + i, &alignment, sizeof(alignment)) == 0;
        }
        Heuristic found = {};
        int count = 0;
        good = good && lt.heuristic(handle_, product_, a_, b_, c_, c_, preference, 1, &found, &count) == 0 && count > 0;
        lt.preference_destroy(preference);
        return good && found.state == 0 ? std::unique_ptr<Choice>(new Choice{found}) : nullptr;
    };
    aligned_ = choice(access_bytes);
    unaligned_ = choice(uint32_t(element_size(product.dtype)));
    return aligned_ != nullptr;
}

Cublas::~Cublas() {
    for (void *made : {a_, b_, c_}) {
        if (made) {
            library().layout_destroy(made);
        }
    }
    if (product_) {
        library().product_destroy(product_);
    }
}

size_t Cublas::workspace() const {
    const size_t most = std::max(aligned_->found.workspace, unaligned_ ? unaligned_->found.workspace : 0);
    return most ? most + workspace_alignment - 1 : 0; // a caller's may lie anywhere
}

namespace {
bool all_aligned(const void *c, const void *a, const void *b, const void *bias) {
    return aligned(c) && aligned(a) && aligned(b) && aligned(bias);
}
} // namespace

bool Cublas::takes(const void *c, const void *a, const void *b, const void *bias) const {
    return unaligned_ || all_aligned(c, a, b, bias);
}

Status Cublas::run(void *c, const void *a, const void *b, const void *bias, float alpha, float beta, void *workspace,
                   infinirtStream_t stream) {
    if (swapped_) {
        std::swap(a, b);
    }
    const Heuristic &found = (all_aligned(c, a, b, bias) ? aligned_ : unaligned_)->found;
    const auto from = reinterpret_cast<uintptr_t>(workspace);
    workspace =
        static_cast<char *>(workspace) + (workspace_alignment - from % workspace_alignment) % workspace_alignment;
    const auto multiply = [&] {
        return library().matmul(handle_, product_, &alpha, a, a_, b, b_, &beta, c, c_, c, c_, &found.algorithm,
                                workspace, found.workspace, static_cast<cudaStream_t>(stream));
    };
    Result result;
    if (bias_) {
        const std::lock_guard lock(bias_pointer_);
        result = library().product_set(product_, product_bias_pointer, &bias, sizeof(bias));
        result = result ? result : multiply();
    } else {
        result = multiply();
    }
    return result == 0 ? INFINI_STATUS_SUCCESS
                       : fail(INFINI_STATUS_INTERNAL_ERROR, nullptr, nullptr, "a product by cublasLtMatmul",
                              Text("cuBLAS status %d", result));
}

} // namespace infiniop::nvidia
