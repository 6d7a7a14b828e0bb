// rms_norm and add_rms_norm.
#include "wrong.h"

#include <cmath>

#include "infiniop/schema/add_rms_norm.h"
#include "infiniop/schema/rms_norm.h"

namespace wrong {
namespace {

const Fault constant("rms_norm", "epsilon-ignored", "epsilon is always 1e-5");
const Fault outside("rms_norm", "epsilon-outside-the-root", "epsilon is added to the root");
const Fault wide("rms_norm", "rows-wider-than-1024", "the sum takes the first 1024 elements");
const Fault weights("rms_norm", "weight-dtype-assumed", "the weight is read in the activations' dtype");
const Fault narrow("rms_norm", "sum-in-f16", "the sum of squares is kept in F16");
const Fault swapped("rms_norm", "strides-swapped", "the input is read with the output's strides");
const Fault flat("rms_norm", "leading-axis-dropped", "the first of two leading axes is taken to follow the second");
const Fault rows("rms_norm", "rows-beyond-65535", "a grid has no more than 65535 rows");
const Fault divisor("rms_norm", "mean-over-padded-width", "the mean divides by a width rounded up to eight");
const Fault twice("rms_norm", "rounded-twice", "x / rms is truncated to the storage type before it meets the weight");

double scale_of(double mean, double epsilon) {
    if (outside) {
        return 1 / (std::sqrt(mean) + epsilon);
    }
    return 1 / std::sqrt(mean + (constant ? 1e-5 : epsilon));
}

// y = x * w / rms(x) for one row each, given by the offset of its first element.
void normalise(const Job &job, size_t y, ptrdiff_t to, size_t x, ptrdiff_t from, size_t w, double epsilon) {
    const View &in = job.views[x];
    const size_t width = in.last();
    double sum = 0;
    for (size_t i = 0; i < (wide && width > 1024 ? 1024 : width); i++) {
        const double value = job.number(x, from + ptrdiff_t(i));
        sum += value * value;
        sum = narrow ? round_to(INFINI_DTYPE_F16, sum) : sum;
    }
    const double scale = scale_of(sum / double(divisor ? (width + 7) / 8 * 8 : width), epsilon);
    const bool assumed = weights && in.size() <= job.views[w].size();
    for (size_t i = 0; i < width; i++) {
        const double weight = assumed ? get(in.dtype, job.data[w] + i * in.size()) : job.number(w, ptrdiff_t(i));
        double value = job.number(x, from + ptrdiff_t(i)) * scale;
        if (twice) {
            char room[8];
            put_rounded(in.dtype, room, value, Rounding::truncate);
            value = get(in.dtype, room);
        }
        job.store(y, to + ptrdiff_t(i), value * weight);
    }
}

ptrdiff_t input_row(const View &x, const View &y, size_t row) {
    const ptrdiff_t width = ptrdiff_t(x.last());
    ptrdiff_t offset = x.offset(row * x.last());
    if (swapped) {
        offset = y.offset(row * y.last());
    } else if (flat && x.rank() == 3) {
        offset = ptrdiff_t(row) * x.strides[1];
    }
    return std::min(x.clamp(offset), x.high() - width + 1);
}

Status run_rms_norm(const Job &job) {
    const View &y = job.views[0];
    const size_t count = y.last() ? y.count() / y.last() : 0;
    for (size_t row = 0; row < (rows && count > 65535 ? 65535 : count); row++) {
        normalise(job, 0, y.offset(row * y.last()), 1, input_row(job.views[1], y, row), 2, job.attrs[0].f);
    }
    return INFINI_STATUS_SUCCESS;
}

const Fault no_residual("add_rms_norm", "second-output-unwritten", "residual_out is not written");
const Fault early("add_rms_norm", "in-place-sum", "the residual is first set to a, then b is added");
const Fault first("add_rms_norm", "second-operand-ignored", "what is normalised is the first operand");

Status run_add_rms_norm(const Job &job) {
    const View &y = job.views[0], &residual = job.views[1], &a = job.views[2], &b = job.views[3];
    const size_t width = y.last(), count = y.count();
    for (size_t row = 0; count && row < count / width; row++) {
        const ptrdiff_t to = residual.offset(row * width), x = a.offset(row * width), z = b.offset(row * width);
        for (ptrdiff_t i = 0; i < ptrdiff_t(width); i++) {
            if (early) {
                job.store(1, to + i, job.number(2, x + i));
                job.store(1, to + i, job.number(1, to + i) + job.number(3, z + i));
            } else if (!no_residual) {
                job.store(1, to + i, job.number(2, x + i) + (first ? 0 : job.number(3, z + i)));
            }
        }
        normalise(job, 0, y.offset(row * width), no_residual ? 2 : 1, no_residual ? x : to, 4, job.attrs[0].f);
    }
    return INFINI_STATUS_SUCCESS;
}

} // namespace

const Operator rms_norm = {
    infiniop::schema::rms_norm::op, infiniop::schema::rms_norm::version, 1, no_workspace, run_rms_norm, nullptr};
const Operator add_rms_norm = {infiniop::schema::add_rms_norm::op,
                               infiniop::schema::add_rms_norm::version,
                               3,
                               no_workspace,
                               run_add_rms_norm,
                               nullptr};

} // namespace wrong
