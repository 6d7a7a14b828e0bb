// The interpreter of schemas and dispatch, on an operator that has what real ones have a little of each: alternatives,
// groups, an optional tensor, attributes at all times, a host array, constraints at create and at run, an alias.
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "../programs/check.h"
#include "dispatch.hpp"
#include "infinirt.h"
#include "schema_env.hpp"

using namespace infini;

const OperatorSchema *const infini::operator_schemas[] = {nullptr};
const size_t infini::operator_schema_count = 0;

namespace {

// out [*batch, m, n], x [m, n] or [b, m, n], y [*batch, k] optional, w [n, k] of a fixed dtype
enum { OUT, X, Y, W, ntensors };
enum { AXIS_M, AXIS_N, AXIS_B, AXIS_K };
enum { SCALE, MODE, COUNT, TABLE, RATE, nattrs };

const char *const axes[] = {"m", "n", "b", "k"};
const char *const groups[] = {"batch"};
const infiniDtype_t floats[] = {INFINI_DTYPE_F16, INFINI_DTYPE_F32};
const DtypeVar dtype_vars[] = {{"T", floats, 2}};
const AxisToken out_shape[] = {{true, 0}, {false, AXIS_M}, {false, AXIS_N}};
const AxisToken x_plain[] = {{false, AXIS_M}, {false, AXIS_N}},
                x_batch[] = {{false, AXIS_B}, {false, AXIS_M}, {false, AXIS_N}};
const AxisToken y_shape[] = {{true, 0}, {false, AXIS_K}};
const AxisToken w_shape[] = {{false, AXIS_N}, {false, AXIS_K}};
const ShapeAlternative out_shapes[] = {{out_shape, 3}}, x_shapes[] = {{x_plain, 2}, {x_batch, 3}},
                       y_shapes[] = {{y_shape, 2}}, w_shapes[] = {{w_shape, 2}};
const TensorSchema tensors[] = {
    {"out", Role::out, Strides::any, out_shapes, 1, 0, INFINI_DTYPE_INVALID, 2, 4, false, false},
    {"x", Role::in, Strides::matrix, x_shapes, 2, 0, INFINI_DTYPE_INVALID, 0, 255, false, false},
    {"y", Role::in, Strides::contiguous, y_shapes, 1, 0, INFINI_DTYPE_INVALID, 0, 255, true, true},
    {"w", Role::in, Strides::unit_last, w_shapes, 1, -1, INFINI_DTYPE_I32, 0, 255, false, false},
};
const AttrSchema attrs[] = {
    {"scale", "float", AttrKind::real, AttrTime::create, 4, nullptr},
    {"mode", "int", AttrKind::integer, AttrTime::both, 4, nullptr},
    {"count", "int64_t", AttrKind::integer, AttrTime::run, 8, nullptr},
    {"table", "float", AttrKind::array, AttrTime::create, 4, [](const SchemaEnv &e) { return e.axis[AXIS_N]; }},
    {"rate", "float", AttrKind::array, AttrTime::run, 4, [](const SchemaEnv &e) { return e.axis[AXIS_M]; }},
};
const ValueRef k_use[] = {{"k", ValueKind::axis, AXIS_K}}, count_use[] = {{"count", ValueKind::attr_integer, COUNT}};
const ValueRef scale_use[] = {{"scale", ValueKind::attr_real, SCALE}};
const ConstraintSchema constraints[] = {
    {[](const SchemaEnv &e) { return e.axis[AXIS_K] % 2 == 0; }, "w", "an even k", INFINI_STATUS_BAD_TENSOR_SHAPE,
     false, k_use, 1},
    {[](const SchemaEnv &e) { return e.attrs[SCALE].f > 0; }, "scale", "more than 0", INFINI_STATUS_BAD_PARAM, false,
     scale_use, 1},
    {[](const SchemaEnv &e) { return e.attrs[COUNT].i <= e.group_size[0]; }, "count", "at most the batch",
     INFINI_STATUS_BAD_PARAM, true, count_use, 1},
};
const AliasPair aliases[] = {{OUT, X}};
const OperatorSchema schema = {"unit",
                               "Unit",
                               3,
                               axes,
                               4,
                               groups,
                               1,
                               nullptr,
                               dtype_vars,
                               1,
                               tensors,
                               ntensors,
                               attrs,
                               nattrs,
                               constraints,
                               3,
                               aliases,
                               1,
                               INFINI_STATUS_BAD_TENSOR_SHAPE,
                               INFINI_STATUS_BAD_PARAM,
                               nullptr};
const OperatorSchema sharing = {"unit_batch",
                                "UnitBatch",
                                1,
                                axes,
                                4,
                                groups,
                                1,
                                nullptr,
                                dtype_vars,
                                1,
                                tensors,
                                ntensors,
                                attrs,
                                nattrs,
                                nullptr,
                                0,
                                nullptr,
                                0,
                                INFINI_STATUS_BAD_TENSOR_SHAPE,
                                INFINI_STATUS_BAD_PARAM,
                                &schema};

// ---- a kernel that notes what it gets

struct Seen {
    std::vector<std::vector<ptrdiff_t>> strides;
    std::vector<bool> present;
    std::vector<infiniopValue> attrs;
    std::vector<void *> data;
    float rate0 = 0, table0 = 0;
    int calls = 0, destroyed = 0;
} seen;

infiniStatus_t create_kernel(void *, const infiniopCall *call, void **, size_t *workspace) {
    CHECK(call->ntensors == ntensors && call->nattrs == nattrs && std::string_view(call->op).substr(0, 4) == "unit");
    seen.strides.assign(ntensors, {});
    seen.present.assign(ntensors, false);
    for (size_t i = 0; i < ntensors; ++i) {
        if (const infiniopTensorView *view = call->tensors[i]) {
            seen.strides[i].assign(view->strides, view->strides + view->ndim);
            seen.present[i] = true;
        }
    }
    *workspace = 8;
    return call->attrs[MODE].i == 13 ? INFINI_STATUS_INTERNAL_ERROR : INFINI_STATUS_SUCCESS;
}

infiniStatus_t run_kernel(void *, const infiniopRun *run) {
    ++seen.calls;
    seen.attrs.assign(run->attrs, run->attrs + nattrs);
    seen.data.assign(run->data, run->data + ntensors);
    seen.table0 = static_cast<const float *>(run->attrs[TABLE].p)[0];
    seen.rate0 = static_cast<const float *>(run->attrs[RATE].p)[0];
    return INFINI_STATUS_SUCCESS;
}

void destroy_kernel(void *) { ++seen.destroyed; }

// ---- calls

struct Shape {
    std::vector<size_t> shape;
    std::vector<ptrdiff_t> strides = {};
    infiniDtype_t dtype = INFINI_DTYPE_F32;
    bool null = false;
};
const Shape absent{{}, {}, INFINI_DTYPE_F32, true};

// A good call: batch (2,), m 3, n 4, k 6.
struct Arguments {
    Shape t[ntensors] = {{{2, 3, 4}}, {{3, 4}}, {{2, 6}}, {{4, 6}, {}, INFINI_DTYPE_I32}};
    double scale = 0.5;
    int64_t mode = 2;
    std::vector<float> table = {1, 2, 3, 4};
    bool null_table = false;
};

infiniopHandle_t handle;

infiniStatus_t create(const Arguments &a, InfiniopDescriptor **desc, const OperatorSchema &of = schema) {
    infiniopTensorDescriptor_t descriptors[ntensors] = {};
    for (size_t i = 0; i < ntensors; ++i) {
        const Shape &s = a.t[i];
        if (!s.null) {
            OK(infiniopCreateTensorDescriptor(&descriptors[i], s.shape.size(), s.shape.data(),
                                              s.strides.empty() ? nullptr : s.strides.data(), s.dtype));
        }
    }
    const infiniopValue values[] = {real(a.scale), integer(a.mode), none(),
                                    array(a.null_table ? nullptr : a.table.data()), none()};
    const infiniStatus_t status = create_descriptor(of, handle, desc, descriptors, values);
    for (infiniopTensorDescriptor_t d : descriptors) {
        OK(infiniopDestroyTensorDescriptor(d));
    }
    return status;
}

struct Destroy {
    void operator()(InfiniopDescriptor *desc) const { OK(destroy_descriptor(schema, desc)); }
};
using Operator = std::unique_ptr<InfiniopDescriptor, Destroy>;

Operator good(const Arguments &a = {}) {
    InfiniopDescriptor *desc = nullptr;
    OK(create(a, &desc));
    return Operator(desc);
}

template <class Change> Arguments with(Change change) {
    Arguments a;
    change(a);
    return a;
}

template <class Change> void refused(infiniStatus_t status, const char *part, Change change) {
    InfiniopDescriptor *const untouched = reinterpret_cast<InfiniopDescriptor *>(&seen), *desc = untouched;
    status_at(__FILE__, __LINE__, create(with(change), &desc), status, "create", part);
    CHECK(desc == untouched);
}

void shapes() {
    refused(INFINI_STATUS_BAD_TENSOR_SHAPE, "unit: x: expected [m=3, n=4], got [3, 5]",
            [](Arguments &a) { a.t[X] = {{3, 5}}; });
    refused(INFINI_STATUS_BAD_PARAM, "unit: x: expected [m=3, n=4] or [b, m=3, n=4], got [4]",
            [](Arguments &a) { a.t[X] = {{4}}; });
    refused(INFINI_STATUS_BAD_TENSOR_SHAPE, "unit: y: expected [*batch=[2], k], got [3, 6]",
            [](Arguments &a) { a.t[Y] = {{3, 6}}; });
    refused(INFINI_STATUS_BAD_PARAM, "unit: y: expected [*batch=[2], k], got [2, 2, 6]",
            [](Arguments &a) { a.t[Y] = {{2, 2, 6}}; });
    refused(INFINI_STATUS_BAD_PARAM, "unit: out: expected [*batch, m, n] of 2 to 4 axes, got [1, 1, 1, 3, 4]",
            [](Arguments &a) { a.t[OUT] = {{1, 1, 1, 3, 4}}; });
    refused(INFINI_STATUS_BAD_PARAM, "unit: out", [](Arguments &a) { a.t[OUT] = {{4}}; });
    refused(INFINI_STATUS_BAD_TENSOR_SHAPE, "unit: w: expected an even k, got k = 5", [](Arguments &a) {
        a.t[Y] = {{2, 5}};
        a.t[W] = {{4, 5}, {}, INFINI_DTYPE_I32};
    });
    good(with([](Arguments &a) { a.t[X] = {{7, 3, 4}}; })); // the other alternative
    good(with([](Arguments &a) {                            // a group of no axes
        a.t[OUT] = {{3, 4}};
        a.t[Y] = {{6}};
    }));
    good(with([](Arguments &a) {
        a.t[OUT] = {{2, 5, 3, 4}};
        a.t[Y] = {{2, 5, 6}};
    }));
    good(with([](Arguments &a) { a.t[Y] = absent; }));
    CHECK(!seen.present[Y]);
    refused(INFINI_STATUS_NULL_POINTER, "unit: x", [](Arguments &a) { a.t[X] = absent; });
}

void dtypes() {
    refused(INFINI_STATUS_BAD_TENSOR_DTYPE, "unit: out: expected F16 or F32, got F64",
            [](Arguments &a) { a.t[OUT].dtype = INFINI_DTYPE_F64; });
    refused(INFINI_STATUS_BAD_TENSOR_DTYPE, "unit: y: expected F32 as in out, got F16",
            [](Arguments &a) { a.t[Y].dtype = INFINI_DTYPE_F16; });
    refused(INFINI_STATUS_BAD_TENSOR_DTYPE, "unit: w: expected I32, got I64",
            [](Arguments &a) { a.t[W].dtype = INFINI_DTYPE_I64; });
    refused(INFINI_STATUS_BAD_TENSOR_DTYPE, "got INVALID", [](Arguments &a) { a.t[W].dtype = INFINI_DTYPE_INVALID; });
}

void strides() {
    refused(INFINI_STATUS_BAD_TENSOR_STRIDES, "unit: out: expected no stride of 0 in an output",
            [](Arguments &a) { a.t[OUT].strides = {0, 4, 1}; });
    refused(INFINI_STATUS_BAD_TENSOR_STRIDES, "unit: x: expected a stride of 1 in one of the last two axes",
            [](Arguments &a) { a.t[X].strides = {8, 2}; });
    refused(INFINI_STATUS_BAD_TENSOR_STRIDES, "unit: y: expected row-major strides",
            [](Arguments &a) { a.t[Y].strides = {7, 1}; });
    refused(INFINI_STATUS_BAD_TENSOR_STRIDES,
            "unit: w: expected a last stride of 1, got strides [6, -1] for shape [4, 6]",
            [](Arguments &a) { a.t[W].strides = {6, -1}; });
    good(with([](Arguments &a) { a.t[X].strides = {1, 3}; })); // column-major
    good(with([](Arguments &a) { a.t[X].strides = {0, 1}; })); // broadcast in an input
    good(with([](Arguments &a) { a.t[OUT].strides = {-12, 4, 1}; }));
    // Strides of axes with extent 1 never matter, and kernels see usual ones.
    good(with([](Arguments &a) {
        a.t[OUT] = {{1, 1, 1}, {99, 0, -7}};
        a.t[X] = {{1, 1}, {5, 5}};
        a.t[Y] = {{1, 6}, {1000, 1}};
        a.t[W] = {{1, 6}, {0, 1}, INFINI_DTYPE_I32};
        a.table = {1};
    }));
    CHECK((seen.strides[OUT] == std::vector<ptrdiff_t>{1, 1, 1}) && (seen.strides[Y] == std::vector<ptrdiff_t>{6, 1}));
    good(with([](Arguments &a) { // one row with a gap between its elements: column-major
        a.t[OUT] = {{2, 1, 4}};
        a.t[X] = {{1, 4}, {77, 3}};
    }));
    CHECK((seen.strides[X] == std::vector<ptrdiff_t>{1, 3}));
    good(with([](Arguments &a) { // an empty tensor's strides say nothing
        a.t[OUT] = {{0, 3, 4}, {0, 0, 0}};
        a.t[Y] = {{0, 6}, {1, 9}};
    }));
}

void sizes() {
    constexpr size_t big = size_t{1} << 40;
    refused(INFINI_STATUS_BAD_TENSOR_SHAPE, "unit: out: expected at most 2^60 bytes",
            [](Arguments &a) { a.t[OUT] = {{big, big, 4}, {1, 1, 1}}; });
    refused(INFINI_STATUS_BAD_TENSOR_SHAPE, "unit: out: expected at most 2^60 bytes",
            [](Arguments &a) { a.t[OUT] = {{0, big, big}}; });
    refused(INFINI_STATUS_BAD_TENSOR_SHAPE, "2^60 bytes", [](Arguments &a) { a.t[OUT] = {{SIZE_MAX, 3, 4}}; });
    refused(INFINI_STATUS_BAD_TENSOR_STRIDES, "unit: x: expected offsets of at most 2^60 bytes",
            [](Arguments &a) { a.t[X].strides = {PTRDIFF_MAX, 1}; });
    refused(INFINI_STATUS_BAD_TENSOR_STRIDES, "2^60 bytes", [](Arguments &a) { a.t[X].strides = {PTRDIFF_MIN, 1}; });
    refused(INFINI_STATUS_BAD_TENSOR_STRIDES, "2^60 bytes",
            [](Arguments &a) { a.t[X].strides = {PTRDIFF_MAX / 8, 1}; });
}

void attributes() {
    refused(INFINI_STATUS_BAD_PARAM, "unit: scale: expected more than 0, got scale = -1",
            [](Arguments &a) { a.scale = -1; });
    refused(INFINI_STATUS_BAD_PARAM, "unit: scale", [](Arguments &a) { a.scale = NAN; });
    refused(INFINI_STATUS_NULL_POINTER, "unit: table: expected 4 values, got NULL",
            [](Arguments &a) { a.null_table = true; });
    const int destroyed = seen.destroyed;
    refused(INFINI_STATUS_INTERNAL_ERROR, "unit: backend unit answered INTERNAL_ERROR",
            [](Arguments &a) { a.mode = 13; });
    CHECK(seen.destroyed == destroyed); // there was no state
}

struct Data {
    float out[24] = {}, x[12] = {}, y[12] = {}, workspace[2] = {}, rate[3] = {9, 8, 7};
    int32_t w[24] = {};
};

infiniStatus_t calculate_unit(InfiniopDescriptor *desc, Data &d, void *out, void *x, void *y, int64_t mode,
                              int64_t count, const float *rate, void *stream = nullptr) {
    void *const data[] = {out, x, y, d.w};
    const infiniopValue values[] = {real(1e9), integer(mode), integer(count), array(nullptr), array(rate)};
    return calculate(schema, desc, d.workspace, sizeof d.workspace, data, values, stream);
}

void run() {
    static Data d;
    Operator desc = [] {
        const auto a = std::make_unique<Arguments>(); // its table is gone before the run
        a->table = {42, 0, 0, 0};
        return good(*a);
    }();
    const auto go = [&](void *out, void *x, void *y, int64_t mode, int64_t count, const float *rate) {
        return calculate_unit(desc.get(), d, out, x, y, mode, count, rate);
    };
    OK(go(d.out, d.x, d.y, 2, 2, d.rate));
    CHECK(seen.attrs[SCALE].f == 0.5 && seen.attrs[MODE].i == 2 && seen.attrs[COUNT].i == 2);
    CHECK(seen.table0 == 42 && seen.rate0 == 9 && seen.data[OUT] == d.out && seen.data[W] == d.w);
    OK(go(d.out, d.x, nullptr, 2, 0, d.rate)); // y may be NULL at run
    const int calls = seen.calls;
    FAILS(NULL_POINTER, "unit: x", go(d.out, nullptr, d.y, 2, 2, d.rate));
    FAILS(NULL_POINTER, "unit: rate: expected 3 values, got NULL", go(d.out, d.x, d.y, 2, 2, nullptr));
    FAILS(BAD_PARAM, "unit: mode: expected 2 as at create, got 3", go(d.out, d.x, d.y, 3, 2, d.rate));
    FAILS(BAD_PARAM, "unit: count: expected at most the batch, got count = 3", go(d.out, d.x, d.y, 2, 3, d.rate));
    FAILS(BAD_PARAM, "unit: out: expected memory of its own beside y", go(d.y, d.x, d.y, 2, 2, d.rate));
    FAILS(BAD_PARAM, "beside x", go(d.x, d.x, d.y, 2, 2, d.rate)); // may alias, but the shapes differ
    CHECK(seen.calls == calls);
    const Operator same = good(with([](Arguments &a) {
        a.t[OUT] = {{3, 4}};
        a.t[Y] = absent;
    }));
    OK(calculate_unit(same.get(), d, d.x, d.x, d.y, 2, 1, d.rate));
    CHECK(seen.data[Y] == nullptr);                   // left out at create
    const Operator row = good(with([](Arguments &a) { // of the strides, only those of longer axes count
        a.t[OUT] = {{1, 4}, {7, 3}};
        a.t[X] = {{1, 4}, {9, 3}};
        a.t[Y] = absent;
    }));
    OK(calculate_unit(row.get(), d, d.x, d.x, nullptr, 2, 1, d.rate));
    const Operator other = good(with([](Arguments &a) { // the same shape in other strides
        a.t[OUT] = {{3, 4}, {4, 1}};
        a.t[X] = {{3, 4}, {1, 3}};
        a.t[Y] = absent;
    }));
    FAILS(BAD_PARAM, "beside x", calculate_unit(other.get(), d, d.x, d.x, nullptr, 2, 1, d.rate));
}

void nothing_to_do() {
    static Data d;
    const Operator desc = good(with([](Arguments &a) {
        a.t[OUT] = {{0, 3, 4}};
        a.t[Y] = {{0, 6}};
    }));
    const int calls = seen.calls;
    OK(calculate_unit(desc.get(), d, nullptr, d.x, nullptr, 2, 0, d.rate));
    CHECK(seen.calls == calls);
}

void recorded_arrays() {
    static Data d;
    const Operator desc = good();
    infinirtStream_t stream;
    infinirtGraph_t graph;
    infinirtGraphExec_t exec;
    OK(infinirtStreamCreate(&stream));
    OK(infinirtStreamBeginCapture(stream, INFINIRT_STREAM_CAPTURE_MODE_GLOBAL));
    const int calls = seen.calls;
    {
        std::vector<float> rate = {77, 0, 0};
        OK(calculate_unit(desc.get(), d, d.out, d.x, d.y, 2, 1, rate.data(), stream));
        rate[0] = -1; // host arrays are copied at capture
    }
    CHECK(seen.calls == calls);
    OK(infinirtStreamEndCapture(stream, &graph));
    OK(infinirtGraphInstantiate(&exec, graph, nullptr, nullptr, 0));
    OK(infinirtGraphLaunch(exec, stream));
    CHECK(seen.calls == calls + 1 && seen.rate0 == 77 && seen.attrs[COUNT].i == 1);
    OK(infinirtGraphExecDestroy(exec));
    OK(infinirtGraphDestroy(graph));
    OK(infinirtStreamDestroy(stream));
}

void shared_functions() {
    InfiniopDescriptor *batch = nullptr;
    size_t size = 0;
    OK(create({}, &batch, sharing));
    OK(workspace_size(schema, batch, &size));
    CHECK(size == 8);
    static Data d;
    FAILS(BAD_PARAM, "unit: desc: expected a descriptor of unit, got one of unit_batch",
          calculate_unit(batch, d, d.out, d.x, d.y, 2, 1, d.rate));
    OK(destroy_descriptor(schema, batch));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "infiniopNobody", not_built("infiniopNobody"));
}

} // namespace

int main() {
    const auto kernel = [](const char *op, uint32_t version) {
        return infiniopKernel{sizeof(infiniopKernel), op,         version,        nullptr,
                              create_kernel,          run_kernel, destroy_kernel, nullptr};
    };
    static const infiniopKernel unit = kernel("unit", 3), batch = kernel("unit_batch", 1);
    static const infiniopKernel *const kernels[] = {&unit, &batch};
    static const infiniopBackend backend{
        sizeof backend, INFINIOP_BACKEND_ABI_MAJOR, 0, "unit", "cpu", "1", 0, 0, nullptr, nullptr, 2, kernels};
    OK(infiniopRegisterBackend(&backend));
    OK(infiniopCreateHandle(&handle));
    shapes();
    dtypes();
    strides();
    sizes();
    attributes();
    run();
    nothing_to_do();
    recorded_arrays();
    shared_functions();
    CHECK(seen.destroyed > 10);
    OK(infiniopDestroyHandle(handle));
    puts("ok");
}
