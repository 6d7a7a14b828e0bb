#include "kernel.h"

#include <algorithm>

namespace opencl {

// ---- calls

i64 Call::elements(size_t t) const {
    i64 n = 1;
    for (size_t axis = 0; axis < rank(t); ++axis) {
        n *= dim(t, axis);
    }
    return n;
}

namespace {

struct Type {
    infiniDtype_t dtype;
    const char *name;
    size_t size;
};

constexpr Type types[] = {
    {INFINI_DTYPE_BYTE, "U8", 1},   {INFINI_DTYPE_BOOL, "U8", 1}, {INFINI_DTYPE_I8, "I8", 1},
    {INFINI_DTYPE_I16, "I16", 2},   {INFINI_DTYPE_I32, "I32", 4}, {INFINI_DTYPE_I64, "I64", 8},
    {INFINI_DTYPE_U8, "U8", 1},     {INFINI_DTYPE_U16, "U16", 2}, {INFINI_DTYPE_U32, "U32", 4},
    {INFINI_DTYPE_U64, "U64", 8},   {INFINI_DTYPE_F8, "U8", 1},   {INFINI_DTYPE_F16, "F16", 2},
    {INFINI_DTYPE_F32, "F32", 4},   {INFINI_DTYPE_F64, "F64", 8}, {INFINI_DTYPE_C16, "U16", 2},
    {INFINI_DTYPE_C32, "U32", 4},   {INFINI_DTYPE_C64, "U64", 8}, {INFINI_DTYPE_C128, "B16", 16},
    {INFINI_DTYPE_BF16, "BF16", 2},
};

const Type &type_of(infiniDtype_t dtype) {
    for (const Type &type : types) {
        if (type.dtype == dtype) {
            return type;
        }
    }
    refuse(INFINI_STATUS_BAD_TENSOR_DTYPE, "", "a dtype that this backend knows", std::to_string(dtype));
}

} // namespace

std::string Call::type(size_t t) const {
    if (dtype(t) == INFINI_DTYPE_F64 && !device().has_doubles()) {
        refuse(INFINI_STATUS_NOT_IMPLEMENTED, "", "another dtype than F64: this OpenCL device has no doubles", "F64");
    }
    return type_of(dtype(t)).name;
}

size_t Call::size(size_t t) const { return type_of(dtype(t)).size; }

std::string Call::bits(size_t t) const { return size(t) == 16 ? "B16" : "U" + std::to_string(8 * size(t)); }

Nest nest_of(const Call &call, const std::vector<size_t> &tensors, const std::vector<size_t> &skipped) {
    Nest nest = {};
    nest.count = 1;
    for (size_t axis = 0; axis < call.rank(tensors[0]); ++axis) {
        if (std::find(skipped.begin(), skipped.end(), axis) != skipped.end()) {
            continue;
        }
        const i64 extent = call.dim(tensors[0], axis);
        nest.count *= extent;
        if (extent == 1) {
            continue;
        }
        bool merges = nest.rank > 0;
        for (size_t i = 0; i < tensors.size() && merges; ++i) {
            merges = nest.stride[i][nest.rank - 1] == call.stride(tensors[i], axis) * extent;
        }
        if (!merges && nest.rank == MAX_RANK) {
            refuse(INFINI_STATUS_NOT_IMPLEMENTED, "", "at most " + std::to_string(MAX_RANK) + " axes that do not merge",
                   "more");
        }
        const i64 at = merges ? nest.rank - 1 : nest.rank++;
        nest.shape[at] = merges ? nest.shape[at] * extent : extent;
        for (size_t i = 0; i < tensors.size(); ++i) {
            nest.stride[i][at] = call.stride(tensors[i], axis);
        }
    }
    return nest;
}

// ---- states

Prepared::Prepared(const infiniopCall &call, Plan plan)
    : op(call.op), device_(device_at(call.device_id)), ntensors_(call.ntensors), plan_(std::move(plan)) {
    for (const Stage &stage : plan_.stages) {
        Built &built = built_.emplace_back();
        const size_t local = device_.work_group();
        built.global = local * (stage.by_group ? stage.items : (stage.items + local - 1) / local);
        if (built.global == 0) {
            continue;
        }
        cl_int code = CL_SUCCESS;
        built.kernel = clCreateKernel(device_.program(stage.file, stage.options), stage.kernel, &code);
        check(code, "clCreateKernel");
        built.params = clCreateBuffer(device_.context(), CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR, stage.params.size(),
                                      const_cast<unsigned char *>(stage.params.data()), &code);
        check(code, "clCreateBuffer");
        check(clSetKernelArg(built.kernel, 0, sizeof(cl_mem), &built.params), "clSetKernelArg");
    }
}

Prepared::Built::~Built() {
    if (kernel) {
        clReleaseKernel(kernel);
    }
    if (params) {
        clReleaseMemObject(params);
    }
}

void Prepared::run(const infiniopRun &run) {
    if (plan_.run) {
        plan_.run(*this, run);
        return;
    }
    for (size_t i = 0; i < built_.size(); ++i) {
        launch_with(i, run, nullptr, 0);
    }
}

void Prepared::launch_with(size_t stage, const infiniopRun &run, const void *late, size_t late_size) {
    const Built &built = built_[stage];
    if (built.global == 0) {
        return;
    }
    const std::lock_guard lock(mutex_);
    cl_uint index = 1;
    const auto set_pointer = [&](void *address) {
        const cl_int code = address ? clSetKernelArgSVMPointer(built.kernel, index, to_device(address))
                                    : clSetKernelArg(built.kernel, index, sizeof(cl_mem), nullptr);
        check(code, "clSetKernelArgSVMPointer");
        ++index;
    };
    for (size_t i = 0; i < ntensors_; ++i) {
        set_pointer(run.data[i]);
    }
    if (plan_.workspace) {
        set_pointer(run.workspace);
    }
    if (late) {
        check(clSetKernelArg(built.kernel, index, late_size, late), "clSetKernelArg");
    }
    const size_t local = device_.work_group();
    check(clEnqueueNDRangeKernel(device_.queue(run.stream), built.kernel, 1, nullptr, &built.global, &local, 0, nullptr,
                                 nullptr),
          "clEnqueueNDRangeKernel");
}

// ---- the table

namespace {

struct Entry {
    infiniopKernel kernel;
    Prepare prepare;
};

std::deque<Entry> &entries() {
    static std::deque<Entry> all; // filled by the constants of type Operator
    return all;
}

Plan plan_of(void *ctx, const infiniopCall &call) { return static_cast<const Entry *>(ctx)->prepare(Call(call)); }

Status supports(void *ctx, const infiniopCall *call) {
    return guarded(call->op, [&] { plan_of(ctx, *call); });
}

Status create(void *ctx, const infiniopCall *call, void **state, size_t *workspace) {
    return guarded(call->op, [&] {
        Plan plan = plan_of(ctx, *call);
        const size_t size = plan.workspace;
        *state = new Prepared(*call, std::move(plan));
        *workspace = size;
    });
}

Status calculate(void *state, const infiniopRun *run) {
    Prepared &prepared = *static_cast<Prepared *>(state);
    return guarded(prepared.op.c_str(), [&] { prepared.run(*run); });
}

void destroy(void *state) { delete static_cast<Prepared *>(state); }

} // namespace

Operator::Operator(const char *op, uint32_t version, Prepare prepare) {
    Entry &entry = entries().emplace_back();
    entry.kernel = {sizeof entry.kernel, op, version, supports, create, calculate, destroy, &entry};
    entry.prepare = prepare;
}

const std::vector<const infiniopKernel *> &kernels() {
    static const std::vector<const infiniopKernel *> all = [] {
        std::vector<const infiniopKernel *> table;
        for (const Entry &entry : entries()) {
            table.push_back(&entry.kernel);
        }
        return table;
    }();
    return all;
}

} // namespace opencl
