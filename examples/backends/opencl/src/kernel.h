// From an operator's call to kernels on the device. An operator is one function, `prepare`, that says which kernels run
// over how many work items: `supports` asks it, `create` builds what it says, `calculate` enqueues that.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "../kernels/params.h"
#include "device.h"

namespace opencl {

// What create was given, by the schema's indices.
class Call {
public:
    explicit Call(const infiniopCall &call) : call_(call) {}

    Device &device() const { return device_at(call_.device_id); }
    bool has(size_t t) const { return call_.tensors[t] != nullptr; }
    infiniDtype_t dtype(size_t t) const { return call_.tensors[t]->dtype; }
    size_t size(size_t t) const; // of an element, in bytes
    size_t rank(size_t t) const { return call_.tensors[t]->ndim; }
    i64 dim(size_t t, size_t axis) const { return i64(call_.tensors[t]->shape[axis]); }
    i64 stride(size_t t, size_t axis) const { return i64(call_.tensors[t]->strides[axis]); }
    // Counted from the end: 1 is the last axis. Axes that are not there have extent 1 and stride 0.
    i64 dim_from_end(size_t t, size_t back) const { return back <= rank(t) ? dim(t, rank(t) - back) : 1; }
    i64 stride_from_end(size_t t, size_t back) const { return back <= rank(t) ? stride(t, rank(t) - back) : 0; }
    i64 elements(size_t t) const;
    i64 integer(size_t attr) const { return call_.attrs[attr].i; }
    double real(size_t attr) const { return call_.attrs[attr].f; }

    // "F16": the suffix of what common.cl defines for a dtype. Refuses doubles where the device has none.
    std::string type(size_t t) const;
    // An unsigned integer of the element's size, for copies.
    std::string bits(size_t t) const;

private:
    const infiniopCall &call_;
};

// The axes of several tensors of one shape but for `skipped` ones, neighbours merged; the first tensor's shape counts.
Nest nest_of(const Call &call, const std::vector<size_t> &tensors, const std::vector<size_t> &skipped = {});

// One kernel over `items` work items, rounded up to groups of the device's size. Its arguments: the parameters, the
// tensors in schema order, the workspace where there is one, and what is given at run (`late`).
struct Stage {
    const char *file;
    const char *kernel;
    std::string options;
    size_t items;
    std::vector<unsigned char> params;
    bool by_group = false; // `items` counts work-groups

    Stage grouped() && {
        by_group = true;
        return std::move(*this);
    }
    template <class Params>
    Stage(const char *file, const char *kernel, std::string options, i64 items, const Params &params)
        : file(file), kernel(kernel), options(std::move(options)), items(size_t(items)),
          params(reinterpret_cast<const unsigned char *>(&params),
                 reinterpret_cast<const unsigned char *>(&params) + sizeof params) {}
};

class Prepared;
using Run = std::function<void(Prepared &, const infiniopRun &)>;

struct Plan {
    std::vector<Stage> stages;
    Run run; // other than launching each stage in turn: where attributes are given at run
    size_t workspace;

    Plan(std::vector<Stage> stages, Run run = {}, size_t workspace = 0)
        : stages(std::move(stages)), run(std::move(run)), workspace(workspace) {}
};

// An operator on this device: what infiniop calls a state.
class Prepared {
public:
    Prepared(const infiniopCall &call, Plan plan);
    Prepared(const Prepared &) = delete;

    void run(const infiniopRun &run);
    void launch(size_t stage, const infiniopRun &run) { launch_with(stage, run, nullptr, 0); }
    template <class Late> void launch(size_t stage, const infiniopRun &run, const Late &late) {
        launch_with(stage, run, &late, sizeof late);
    }

    const std::string op;

private:
    void launch_with(size_t stage, const infiniopRun &run, const void *late, size_t late_size);

    struct Built {
        cl_kernel kernel = nullptr;
        cl_mem params = nullptr;
        size_t global = 0;

        Built() = default;
        Built(const Built &) = delete;
        ~Built();
    };
    Device &device_;
    const size_t ntensors_;
    Plan plan_;
    std::mutex mutex_; // a cl_kernel holds the arguments of one launch
    std::deque<Built> built_;
};

using Prepare = Plan (*)(const Call &call);

// A constant of this type is an operator of the backend.
struct Operator {
    Operator(const char *op, uint32_t version, Prepare prepare);
};

const std::vector<const infiniopKernel *> &kernels();

} // namespace opencl
