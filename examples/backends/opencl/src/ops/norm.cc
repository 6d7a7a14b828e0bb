// rms_norm, add_rms_norm and layer_norm: a work-group per row.
#include "../kernel.h"

#include <infiniop/schema/add_rms_norm.h>
#include <infiniop/schema/layer_norm.h>
#include <infiniop/schema/rms_norm.h>

namespace opencl {
namespace {

Plan plan(const Call &call, const char *kernel, const std::vector<size_t> &rows, size_t weight, double epsilon,
          RowParams params = {}) {
    params.rows = nest_of(call, rows, {call.rank(rows[0]) - 1});
    params.d = call.dim_from_end(rows[0], 1);
    for (size_t i = 0; i < rows.size(); ++i) {
        params.step[i] = call.rank(rows[i]) == call.rank(rows[0]) ? call.stride_from_end(rows[i], 1) : 0;
    }
    params.weight_step = call.stride(weight, 0);
    params.epsilon = float(epsilon);
    const std::string options = "-DT=" + call.type(rows[0]) + " -DW=" + call.type(weight);
    return Plan({Stage("norm.cl", kernel, options, params.d ? params.rows.count : 0, params).grouped()});
}

namespace rms = infiniop::schema::rms_norm;
const Operator rms_norm(rms::op, rms::version, [](const Call &call) {
    return plan(call, "rms_norm", {rms::T::y, rms::T::x}, rms::T::w, call.real(rms::A::epsilon));
});

namespace arms = infiniop::schema::add_rms_norm;
const Operator add_rms_norm(arms::op, arms::version, [](const Call &call) {
    return plan(call, "add_rms_norm", {arms::T::y, arms::T::residual_out, arms::T::a, arms::T::b}, arms::T::weight,
                call.real(arms::A::epsilon));
});

namespace ln = infiniop::schema::layer_norm;
const Operator layer_norm(ln::op, ln::version, [](const Call &call) {
    RowParams params = {};
    params.bias_step = call.has(ln::T::bias) ? call.stride(ln::T::bias, 0) : 0;
    return plan(call, "layer_norm",
                {ln::T::output, ln::T::input_standardization, ln::T::input_std_deviation, ln::T::input}, ln::T::weight,
                call.real(ln::A::eps), params);
});

} // namespace
} // namespace opencl
