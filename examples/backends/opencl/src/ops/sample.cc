// sample, random_sample with its batch form, and topk: a work-group per row.
#include "../kernel.h"

#include <infiniop/schema/random_sample.h>
#include <infiniop/schema/random_sample_batch.h>
#include <infiniop/schema/sample.h>
#include <infiniop/schema/topk.h>

namespace opencl {
namespace {

namespace schema = infiniop::schema;

std::string options(const Call &call, size_t values) {
    return "-DT=" + call.type(values) + (call.dtype(values) == INFINI_DTYPE_F64 ? " -DDOUBLES" : "");
}

Plan plan_sample(const Call &call) {
    using T = schema::sample::T;
    SampleParams params = {};
    params.vocab = call.dim(T::logits, 1);
    params.token_size = i64(call.size(T::tokens));
    params.row = call.stride(T::logits, 0);
    params.token = call.stride(T::tokens, 0);
    for (size_t i = 0; i < 6; ++i) {
        params.step[i] = call.stride(T::temperature + i, 0);
    }
    return Plan({Stage("sample.cl", "sample", options(call, T::logits), call.dim(T::tokens, 0), params).grouped()});
}
const Operator sample(schema::sample::op, schema::sample::version, plan_sample);

SampleParams random_params(const Call &call, size_t result, size_t probs) {
    SampleParams params = {};
    params.vocab = call.dim_from_end(probs, 1);
    params.token_size = i64(call.size(result));
    params.row = call.stride_from_end(probs, 2);
    params.token = call.stride_from_end(result, 1);
    return params;
}

// One row per launch: its parameters travel as an argument.
Stage random_stage(const Call &call, size_t result, size_t probs) {
    return Stage("sample.cl", "random_sample", options(call, probs), 1, random_params(call, result, probs)).grouped();
}

Plan plan_random(const Call &call) {
    using T = schema::random_sample::T;
    using A = schema::random_sample::A;
    return Plan({random_stage(call, T::result, T::probs)}, [](Prepared &prepared, const infiniopRun &run) {
        prepared.launch(0, run,
                        Draw{0, float(run.attrs[A::random_val].f), float(run.attrs[A::topp].f),
                             float(run.attrs[A::temperature].f), int(run.attrs[A::topk].i)});
    });
}
const Operator random_sample(schema::random_sample::op, schema::random_sample::version, plan_random);

// The arrays are in host memory: they are checked as the CPU does, before anything is enqueued.
void check_draw(const Draw &draw) {
    const auto wrong = [&](const char *argument, const char *expected, double got) {
        refuse(INFINI_STATUS_BAD_PARAM, argument, expected,
               std::to_string(got) + " at [" + std::to_string(draw.row) + "]");
    };
    if (!(draw.random_val >= 0 && draw.random_val <= 1)) {
        wrong("random_val", "values from 0 to 1", draw.random_val);
    }
    if (!(draw.topp >= 0)) {
        wrong("topp", "values from 0 upwards", draw.topp);
    }
    if (!(draw.temperature >= 0)) {
        wrong("temperature", "values from 0 upwards", draw.temperature);
    }
    if (draw.topk == 0 && draw.random_val != 0 && draw.topp != 0 && draw.temperature != 0) {
        wrong("topk", "values other than 0", draw.topk);
    }
}

Plan plan_batch(const Call &call) {
    using T = schema::random_sample_batch::T;
    using A = schema::random_sample_batch::A;
    const i64 rows = call.dim(T::result, 0);
    return Plan({random_stage(call, T::result, T::probs)}, [rows](Prepared &prepared, const infiniopRun &run) {
        const auto draw = [&](i64 row) {
            const auto number = [&](size_t attr) { return static_cast<const float *>(run.attrs[attr].p)[row]; };
            return Draw{row, number(A::random_val), number(A::topp), number(A::temperature),
                        static_cast<const int *>(run.attrs[A::topk].p)[row]};
        };
        for (i64 row = 0; row < rows; ++row) {
            check_draw(draw(row));
        }
        for (i64 row = 0; row < rows; ++row) {
            prepared.launch(0, run, draw(row));
        }
    });
}
const Operator random_sample_batch(schema::random_sample_batch::op, schema::random_sample_batch::version, plan_batch);

Plan plan_topk(const Call &call) {
    using T = schema::topk::T;
    using A = schema::topk::A;
    const size_t axis = size_t(call.integer(A::dim));
    TopKParams params = {};
    params.rows = nest_of(call, {T::values_output, T::indices_output, T::input}, {axis});
    params.n = call.dim(T::input, axis);
    params.k = call.integer(A::k);
    params.largest = call.integer(A::largest);
    params.sorted = call.integer(A::sorted);
    for (const size_t t : {T::values_output, T::indices_output, T::input}) {
        params.step[t] = call.stride(t, axis);
    }
    const i64 groups = params.k ? params.rows.count : 0;
    return Plan(
        {Stage("topk.cl", "topk", options(call, T::input) + " -DI=" + call.type(T::indices_output), groups, params)
             .grouped()},
        {}, sizeof(i64) * size_t(groups * params.k));
}
const Operator topk(schema::topk::op, schema::topk::version, plan_topk);

} // namespace
} // namespace opencl
