// add and relu.
#include "wrong.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "infiniop/schema/add.h"
#include "infiniop/schema/relu.h"

namespace wrong {
namespace {

const Fault broadcast("add", "broadcast-ignored", "an operand with stride 0 is read as if it had all its elements");
const Fault input_strides("add", "input-strides-ignored", "the second operand is read as if it were contiguous");
const Fault output_strides("add", "output-strides-ignored", "the result is written as if it were contiguous");
const Fault mirrored("add", "negative-stride-mirrored", "an operand with a negative stride is read forwards");
const Fault many_axes("add", "axes-beyond-four", "the strides of the first of five axes or more are ignored");
const Fault scalar("add", "scalar-unwritten", "a result of rank 0 is not written");
const Fault through_f32("add", "f64-through-f32", "F64 is computed in f32");
const Fault through_double("add", "i64-through-double", "I64 is computed in f64");
const Fault saturating("add", "i32-saturates", "I32 saturates instead of wrapping around");
const Fault truncated("add", "bf16-truncated", "BF16 results are truncated");
const Fault truncated_f16("add", "f16-truncated", "F16 results are truncated");
const Fault ties("add", "ties-away", "halfway cases are rounded away from zero");
const Fault saturated("add", "f16-saturates", "what is too large for F16 becomes its largest number");
const Fault flushed("add", "f16-subnormals-flushed", "subnormal F16 results become 0");
const Fault cleared("add", "output-cleared-first", "the output is cleared before the operands are read");
const Fault far("add", "elements-beyond-65536", "elements from the 65536th on are not written");
const Fault same("add", "same-array-twice", "one array given twice is read once");

Rounding rounding(infiniDtype_t dtype) {
    if ((truncated && dtype == INFINI_DTYPE_BF16) || (truncated_f16 && dtype == INFINI_DTYPE_F16)) {
        return Rounding::truncate;
    }
    if (dtype == INFINI_DTYPE_F16 && saturated) {
        return Rounding::saturate;
    }
    if (dtype == INFINI_DTYPE_F16 && flushed) {
        return Rounding::flush;
    }
    return ties ? Rounding::ties_away : Rounding::nearest_even;
}

ptrdiff_t place(const View &view, size_t i, size_t tensor) {
    if (tensor == 0 && output_strides && view.low() == 0) {
        return view.clamp(ptrdiff_t(i));
    }
    if (tensor == 2 && input_strides) {
        return view.clamp(ptrdiff_t(i));
    }
    if (tensor > 0) {
        for (size_t axis = 0; axis < view.rank(); axis++) {
            if (view.strides[axis] == 0 && view.shape[axis] > 1 && broadcast) {
                return view.clamp(ptrdiff_t(i));
            }
            if (view.strides[axis] < 0 && view.shape[axis] > 1 && mirrored) {
                return view.low() + view.high() - view.offset(i);
            }
        }
        if (view.rank() > 4 && many_axes) {
            return view.clamp(view.row_major().offset(i));
        }
    }
    return view.offset(i);
}

int64_t add_integers(infiniDtype_t dtype, int64_t a, int64_t b) {
    if (dtype == INFINI_DTYPE_I64 && through_double) {
        const double sum = double(a) + double(b);
        return std::fabs(sum) < 9.2e18 ? int64_t(sum) : int64_t(uint64_t(a) + uint64_t(b));
    }
    if (dtype == INFINI_DTYPE_I32 && saturating) {
        return std::min<int64_t>(std::max<int64_t>(a + b, INT32_MIN), INT32_MAX);
    }
    return int64_t(uint64_t(a) + uint64_t(b));
}

Status run_add(const Job &job) {
    const View &c = job.views[0], &a = job.views[1], &b = job.views[2];
    if (c.rank() == 0 && scalar) {
        return INFINI_STATUS_SUCCESS;
    }
    if (cleared) {
        for (size_t i = 0; i < c.count(); i++) {
            std::memset(job.at(0, c.offset(i)), 0, c.size());
        }
    }
    for (size_t i = 0; i < c.count(); i++) {
        if (far && i >= 65536) {
            break;
        }
        char *to = job.at(0, place(c, i, 0));
        const ptrdiff_t x = place(a, i, 1), y = place(b, i, 2);
        if (is_integer(c.dtype)) {
            put_integer(c.dtype, to, add_integers(c.dtype, job.integer(1, x), job.integer(2, y)));
            continue;
        }
        const double first = job.number(1, x), second = same && job.data[1] == job.data[2] ? 0 : job.number(2, y);
        const double sum = c.dtype == INFINI_DTYPE_F64 && through_f32 ? double(float(first) + float(second))
                           : c.dtype == INFINI_DTYPE_F64              ? first + second
                                                                      : double(float(first) + float(second));
        put_rounded(c.dtype, to, sum, rounding(c.dtype));
    }
    return INFINI_STATUS_SUCCESS;
}

const Fault swallowed("relu", "nan-swallowed", "max(0, x), which forgets NaN");
const Fault multiplied("relu", "infinity-to-nan", "x * (x > 0), which makes NaN of minus infinity");
const Fault only_f32("relu", "f64-as-f32", "F64 loses its digits");

Status run_relu(const Job &job) {
    const View &to = job.views[0], &from = job.views[1];
    for (size_t i = 0; i < to.count(); i++) {
        const double x = job.number(1, from.offset(i));
        double result = x < 0 ? 0 : x;
        if (swallowed) {
            result = x > 0 ? x : 0;
        } else if (multiplied) {
            result = x * (x > 0 ? 1 : 0);
        } else if (only_f32) {
            result = double(float(result));
        }
        job.store(0, to.offset(i), result);
    }
    return INFINI_STATUS_SUCCESS;
}

} // namespace

const Operator add = {infiniop::schema::add::op, infiniop::schema::add::version, 1, no_workspace, run_add, nullptr};
const Operator relu = {infiniop::schema::relu::op, infiniop::schema::relu::version, 1, no_workspace, run_relu, nullptr};

} // namespace wrong
