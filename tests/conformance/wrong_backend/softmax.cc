// softmax along an axis. Its workspace holds the exponentials of one row.
#include "wrong.h"

#include <cmath>
#include <cstring>

#include "infiniop/schema/softmax.h"

namespace wrong {
namespace {

const Fault plain("softmax", "maximum-not-subtracted", "exp overflows, and infinity over infinity is NaN");
const Fault swallowed("softmax", "nan-swallowed", "NaN is taken for minus infinity");
const Fault nothing("softmax", "minus-infinity-row-is-0", "a row of minus infinities gives 0 instead of NaN");
const Fault last("softmax", "axis-ignored", "the axis is always the last one");
const Fault negative("softmax", "negative-axis-ignored", "a negative axis means the last one");
const Fault tail("softmax", "tail-left-out", "the sum leaves out what does not fill eight lanes");
const Fault narrow("softmax", "sum-in-storage-type", "the sum is kept in the tensors' own dtype");
const Fault streaming("softmax", "output-as-scratch", "exponentials go to the output before the maximum is known");
const Fault unit("softmax", "axis-stride-ignored", "elements along the axis are taken to be neighbours");

size_t axis_of(const Job &job) {
    const int64_t rank = int64_t(job.views[0].rank()), axis = job.attrs[0].i;
    if (last || (negative && axis < 0)) {
        return size_t(rank - 1);
    }
    return size_t(axis < 0 ? axis + rank : axis);
}

// One row: n elements from x, their strides apart.
void row(const Job &job, ptrdiff_t to, ptrdiff_t to_step, ptrdiff_t from, ptrdiff_t step, size_t n) {
    const View &x = job.views[1];
    double *weights = reinterpret_cast<double *>(job.workspace);
    double most = -HUGE_VAL, sum = 0;
    for (size_t i = 0; i < n; i++) {
        double value = job.number(1, x.clamp(from + ptrdiff_t(i) * step));
        value = std::isnan(value) && swallowed ? -HUGE_VAL : value;
        most = std::isnan(value) || value > most ? value : most;
        if (streaming) {
            job.store(0, to + ptrdiff_t(i) * to_step, 0);
        }
    }
    for (size_t i = 0; i < n; i++) {
        double value = job.number(1, x.clamp(from + ptrdiff_t(i) * step));
        value = std::isnan(value) && swallowed ? -HUGE_VAL : value;
        const double weight = plain ? double(std::exp(float(value))) : std::exp(value - most);
        std::memcpy(weights + i, &weight, sizeof weight);
        sum += tail && i >= n / 8 * 8 && n > 8 ? 0 : weight;
        sum = narrow ? round_to(x.dtype, sum) : sum;
    }
    for (size_t i = 0; i < n; i++) {
        double weight;
        std::memcpy(&weight, weights + i, sizeof weight);
        job.store(0, to + ptrdiff_t(i) * to_step, nothing && most == -HUGE_VAL ? 0 : weight / sum);
    }
}

Status run(const Job &job) {
    const View &y = job.views[0], &x = job.views[1];
    const size_t axis = axis_of(job), n = y.shape[axis];
    View outputs = y, inputs = x;
    outputs.shape[axis] = inputs.shape[axis] = 1;
    for (size_t i = 0; y.count() && i < outputs.count(); i++) {
        row(job, outputs.offset(i), y.strides[axis], inputs.offset(i), unit ? 1 : x.strides[axis], n);
    }
    return INFINI_STATUS_SUCCESS;
}

size_t workspace(const std::vector<View> &views) {
    size_t longest = 0;
    for (size_t extent : views[0].shape) {
        longest = std::max(longest, extent);
    }
    return longest * sizeof(double);
}

} // namespace

const Operator softmax = {
    infiniop::schema::softmax::op, infiniop::schema::softmax::version, 1, workspace, run, nullptr};

} // namespace wrong
