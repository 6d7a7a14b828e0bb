// gemm. Its workspace holds the sums of one row.
#include "wrong.h"

#include <cmath>
#include <cstring>

#include "infiniop/schema/gemm.h"

namespace wrong {
namespace {

const Fault f16_sums("gemm", "f16-accumulation", "sums of F16 products are kept in F16");
const Fault bf16_sums("gemm", "bf16-accumulation", "sums of BF16 products are kept in BF16");
const Fault tf32("gemm", "tf32", "F32 operands keep ten bits of their significand");
const Fault reads("gemm", "beta-0-reads-c", "c is multiplied by a beta of 0");
const Fault no_terms("gemm", "no-terms-unwritten", "without terms c stays as it was");
const Fault kept("gemm", "alpha-kept", "alpha is remembered from a descriptor's first call");
const Fault beta("gemm", "beta-ignored", "c is overwritten whatever beta is");
const Fault transposed("gemm", "transposed-b-ignored", "b is read as if it were row-major");
const Fault padded("gemm", "leading-dimension-ignored", "the rows of a are taken to lie side by side");
const Fault shared("gemm", "batch-of-b-ignored", "every product takes the first matrix of b");
const Fault batch_1("gemm", "batch-1-walks-on", "an operand with batch 1 advances with the batch");
const Fault terms("gemm", "terms-not-divisible-by-4", "what is left of four terms is dropped");
const Fault columns("gemm", "columns-not-divisible-by-16", "what is left of sixteen columns is not written");
const Fault zeroed("gemm", "workspace-taken-for-zero", "sums start with what lies in the workspace");
const Fault twice("gemm", "rounded-twice", "the product is rounded before beta c is added");
const Fault one_row("gemm", "one-row-alpha", "alpha is forgotten where there is one row");
const Fault truncated("gemm", "truncated", "BF16 results are truncated");

struct Matrix {
    ptrdiff_t batch, row, column;
};

Matrix matrix(const View &view, size_t tensor) {
    const size_t r = view.rank() - 2;
    Matrix m{view.rank() == 3 && view.shape[0] > 1 ? view.strides[0] : 0, view.strides[r], view.strides[r + 1]};
    if (tensor == 2 && shared) {
        m.batch = 0;
    }
    if (tensor > 0 && batch_1 && view.rank() == 3 && view.shape[0] == 1) {
        m.batch = 1;
    }
    if (tensor == 2 && transposed) {
        m.row = ptrdiff_t(view.shape[r + 1]), m.column = 1;
    }
    if (tensor == 1 && padded && m.column == 1) {
        m.row = ptrdiff_t(view.shape[r + 1]);
    }
    return m;
}

double operand(const Job &job, size_t tensor, ptrdiff_t offset) {
    const View &view = job.views[tensor];
    const double value = job.number(tensor, view.clamp(offset));
    if (tf32 && view.dtype == INFINI_DTYPE_F32 && std::isfinite(value)) {
        int exponent = 0;
        const double fraction = std::frexp(value, &exponent);
        return std::ldexp(std::nearbyint(std::ldexp(fraction, 11)), exponent - 11);
    }
    return value;
}

double rounded_sum(infiniDtype_t dtype, double sum) {
    const bool narrow = (f16_sums && dtype == INFINI_DTYPE_F16) || (bf16_sums && dtype == INFINI_DTYPE_BF16);
    return narrow ? round_to(dtype, sum) : sum;
}

void write_row(const Job &job, ptrdiff_t to, const double *sums, size_t n, float alpha, float factor) {
    const View &c = job.views[0];
    const ptrdiff_t step = c.strides[c.rank() - 1];
    for (size_t j = 0; j < (columns && n > 16 ? n / 16 * 16 : n); j++) {
        double sum;
        std::memcpy(&sum, sums + j, sizeof sum);
        double result = double(alpha) * sum;
        result = twice ? round_to(c.dtype, result) : result;
        const ptrdiff_t at = to + ptrdiff_t(j) * step;
        if ((factor != 0 || reads) && !beta) {
            result += double(factor) * job.number(0, at);
        }
        put_rounded(c.dtype, job.at(0, at), result,
                    truncated && c.dtype == INFINI_DTYPE_BF16 ? Rounding::truncate : Rounding::nearest_even);
    }
}

// What a descriptor's first call had; only the fault looks at it.
float &first_alpha() {
    static float alpha;
    return alpha;
}

Status run(const Job &job) {
    const View &c = job.views[0], &a = job.views[1];
    const size_t rank = c.rank(), m = c.shape[rank - 2], n = c.shape[rank - 1], k = a.last();
    const size_t batch = rank == 3 ? c.shape[0] : 1;
    const Matrix mc = matrix(c, 0), ma = matrix(a, 1), mb = matrix(job.views[2], 2);
    float alpha = float(job.attrs[0].f);
    if (kept) {
        first_alpha() = job.first ? alpha : first_alpha();
        alpha = first_alpha();
    }
    alpha = one_row && m == 1 ? 1 : alpha;
    if (c.count() == 0 || (k == 0 && no_terms)) {
        return INFINI_STATUS_SUCCESS;
    }
    double *sums = reinterpret_cast<double *>(job.workspace);
    for (size_t g = 0; g < batch; g++) {
        for (size_t i = 0; i < m; i++) {
            for (size_t j = 0; j < n; j++) {
                double sum = 0;
                if (zeroed) {
                    std::memcpy(&sum, sums + j, sizeof sum);
                }
                for (size_t t = 0; t < (terms && k > 4 ? k / 4 * 4 : k); t++) {
                    const double x =
                        operand(job, 1, ptrdiff_t(g) * ma.batch + ptrdiff_t(i) * ma.row + ptrdiff_t(t) * ma.column);
                    const double y =
                        operand(job, 2, ptrdiff_t(g) * mb.batch + ptrdiff_t(t) * mb.row + ptrdiff_t(j) * mb.column);
                    sum = rounded_sum(c.dtype, sum + x * y);
                }
                std::memcpy(sums + j, &sum, sizeof sum);
            }
            write_row(job, ptrdiff_t(g) * mc.batch + ptrdiff_t(i) * mc.row, sums, n, alpha, float(job.attrs[1].f));
        }
    }
    return INFINI_STATUS_SUCCESS;
}

size_t workspace(const std::vector<View> &views) { return views[0].last() * sizeof(double); }

} // namespace

const Operator gemm = {infiniop::schema::gemm::op, infiniop::schema::gemm::version, 1, workspace, run, nullptr};

} // namespace wrong
