// From a typed C function to a kernel: choose and prepare at create, check and call at run.
#include "dispatch.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "objects.hpp"
#include "runtime/graph.hpp"
#include "shadow.hpp"

namespace infini {
namespace {

constexpr uint64_t bit(size_t i) { return uint64_t{1} << i; }

// ---- create: the choice of a kernel -----------------------------------------------------------------------

struct Refusals {
    Failure first;
    std::string other_versions;

    void refused(int status, const OperatorSchema &schema, const Backend &backend) {
        plugin_failed(status, schema.name, backend.name);
        if (first.status == INFINI_STATUS_SUCCESS) {
            first = last_failure();
        }
    }
    void other_version(const OperatorSchema &schema, const Kernel &kernel) {
        other_versions += "; " + kernel.backend->name + " has version " + std::to_string(kernel.schema_version) +
                          " of it, this library speaks " + std::to_string(schema.version);
    }
};

infiniStatus_t nobody(const OperatorSchema &schema, const InfiniopHandle &handle, const Refusals &refusals) {
    if (refusals.first.status != INFINI_STATUS_SUCCESS) {
        last_failure() = refusals.first;
        return refusals.first.status;
    }
    std::string text = handle.backend ? "backend '" + handle.backend->name + "' does not have it"
                                      : std::string("no backend of device '") + device_name(handle.device) + "' has it";
    if (!handle.backend && *narrowing()) {
        text += std::string(" among INFINIOP_BACKENDS=") + narrowing();
    }
    const std::string owners = who_has(schema.name);
    text += refusals.other_versions + (owners.empty() ? "; nobody has it" : "; who has it: " + owners);
    return fail(INFINI_STATUS_DEVICE_TYPE_NOT_SUPPORTED, schema.name, text);
}

void count_fallback(const OperatorSchema &schema, const Backend &backend) {
    ++backend.fallbacks;
    log(INFINIOP_LOG_WARNING, (std::string(schema.name) + " falls back to backend " + backend.name).c_str());
}

infiniStatus_t choose_kernel(const OperatorSchema &schema, const InfiniopHandle &handle, const infiniopCall &call,
                             const Kernel **chosen) {
    const Candidates asked = handle.backend ? Candidates{{handle.backend}, 1} : candidates(handle.device);
    Failure before = std::move(last_failure()); // a refusal is no failure when the next one serves
    Refusals refusals;
    for (size_t i = 0; i < asked.backends.size(); ++i) {
        const Kernel *kernel = asked.backends[i]->kernel(schema.name);
        if (!kernel) {
            continue;
        }
        if (kernel->schema_version != schema.version) {
            refusals.other_version(schema, *kernel);
            continue;
        }
        expect_plugin();
        const infiniStatus_t status = kernel->supports ? kernel->supports(kernel->ctx, &call) : INFINI_STATUS_SUCCESS;
        if (raw(status) != INFINI_STATUS_SUCCESS) {
            refusals.refused(raw(status), schema, *kernel->backend);
            continue;
        }
        if (i >= asked.first_fallback) {
            count_fallback(schema, *kernel->backend);
        }
        last_failure() = std::move(before);
        *chosen = kernel;
        return INFINI_STATUS_SUCCESS;
    }
    return nobody(schema, handle, refusals);
}

// ---- create: what run needs -------------------------------------------------------------------------------

infiniStatus_t copy_attrs(InfiniopDescriptor &desc, const infiniopValue *attrs) {
    const OperatorSchema &schema = *desc.schema;
    desc.attrs.assign(attrs, attrs + schema.nattrs);
    for (size_t a = 0; a < schema.nattrs; ++a) {
        const AttrSchema &attr = schema.attrs[a];
        desc.late_attrs |= attr.time != AttrTime::create;
        if (attr.kind != AttrKind::array || attr.time == AttrTime::run) {
            continue;
        }
        size_t bytes;
        if (const infiniStatus_t status = array_bytes(schema, attr, attrs[a], desc.binding.env(attrs), &bytes)) {
            return status;
        }
        const char *values = static_cast<const char *>(attrs[a].p);
        desc.arrays.emplace_back(values, values + bytes);
        desc.attrs[a].p = desc.arrays.back().data();
    }
    return INFINI_STATUS_SUCCESS;
}

bool same_layout(const infiniopTensorView &a, const infiniopTensorView &b) {
    if (a.ndim != b.ndim || element_size(a.dtype) != element_size(b.dtype)) {
        return false;
    }
    for (size_t i = 0; i < a.ndim; ++i) {
        if (a.shape[i] != b.shape[i] || (a.shape[i] != 1 && a.strides[i] != b.strides[i])) {
            return false;
        }
    }
    return true;
}

bool may_alias(const InfiniopDescriptor &desc, size_t output, size_t other) {
    const OperatorSchema &schema = *desc.schema;
    for (size_t p = 0; p < schema.naliases; ++p) {
        const AliasPair pair = schema.aliases[p];
        if ((pair.output == output && pair.input == other) || (pair.output == other && pair.input == output)) {
            return same_layout(*desc.binding.tensors[output], *desc.binding.tensors[other]);
        }
    }
    return false;
}

// The bytes that a tensor reaches over, from its first element's address.
struct Reach {
    intptr_t begin, end;
    bool dense; // no byte between them belongs to nobody
};

Reach reach_of(const infiniopTensorView &view) {
    std::vector<std::pair<intptr_t, intptr_t>> axes; // distance in elements, steps
    intptr_t low = 0, high = 0;
    for (size_t i = 0; i < view.ndim; ++i) {
        const intptr_t steps = static_cast<intptr_t>(view.shape[i]) - 1, length = steps * view.strides[i];
        (length < 0 ? low : high) += length;
        if (length != 0) {
            axes.emplace_back(std::abs(view.strides[i]), steps);
        }
    }
    std::sort(axes.begin(), axes.end());
    intptr_t covered = 1;
    bool dense = true;
    for (const auto &[distance, steps] : axes) {
        dense &= distance <= covered;
        covered += distance * steps;
    }
    const intptr_t size = static_cast<intptr_t>(element_size(view.dtype));
    return {low * size, (high + 1) * size, dense};
}

// What of two tensors would be the same memory; none where that cannot be said from their addresses alone.
void keep_apart(InfiniopDescriptor &desc, uint8_t output, uint8_t other) {
    const Reach a = reach_of(*desc.binding.tensors[output]), b = reach_of(*desc.binding.tensors[other]);
    const bool in_place = may_alias(desc, output, other);
    if (a.dense && b.dense) {
        const intptr_t first = a.begin - b.end + 1, count = (a.end - a.begin) + (b.end - b.begin) - 1;
        desc.apart.push_back({output, other, in_place, static_cast<uintptr_t>(first), static_cast<uintptr_t>(count)});
    } else if (!in_place) {
        desc.apart.push_back({output, other, false, 0, 1});
    }
}

void prepare_run(InfiniopDescriptor &desc) {
    const OperatorSchema &schema = *desc.schema;
    for (size_t i = 0; i < schema.ntensors; ++i) {
        const infiniopTensorView *view = desc.binding.tensors[i];
        if (view && !is_empty(*view)) {
            desc.present |= bit(i);
            desc.required |= schema.tensors[i].null_at_run ? 0 : bit(i);
            desc.outputs_empty &= schema.tensors[i].role == Role::in;
        }
    }
    for (uint8_t o = 0; o < schema.ntensors; ++o) {
        for (uint8_t i = 0; i < schema.ntensors; ++i) {
            const bool first = schema.tensors[i].role == Role::in || o < i; // each pair of outputs once
            if (schema.tensors[o].role != Role::in && o != i && first && (desc.present & bit(o)) &&
                (desc.present & bit(i))) {
                keep_apart(desc, o, i);
            }
        }
    }
    for (size_t c = 0; c < schema.nconstraints; ++c) {
        desc.late_checks |= schema.constraints[c].at_run;
    }
}

infiniStatus_t create_state(InfiniopDescriptor &desc, const infiniopCall &call, const Kernel &kernel) {
    void *state = nullptr;
    size_t workspace = 0;
    expect_plugin();
    const infiniStatus_t status = kernel.create(kernel.ctx, &call, &state, &workspace);
    if (raw(status) != INFINI_STATUS_SUCCESS) {
        return plugin_failed(raw(status), desc.schema->name, kernel.backend->name);
    }
    desc.kernel = &kernel;
    desc.calculate = kernel.calculate;
    desc.destroy = kernel.destroy; // from here on the state is destroyed with the descriptor
    desc.state = state;
    desc.workspace_size = workspace;
    return INFINI_STATUS_SUCCESS;
}

infiniStatus_t create(const OperatorSchema &schema, infiniopHandle_t handle, InfiniopDescriptor **desc_ptr,
                      const infiniopTensorDescriptor_t *tensors, const infiniopValue *attrs) {
    if (const infiniStatus_t status = check_object(schema.name, "handle", handle)) {
        return status;
    }
    if (!desc_ptr) {
        return fail_null(schema.name, "desc_ptr");
    }
    auto desc = std::make_unique<InfiniopDescriptor>();
    desc->device = handle->device;
    desc->device_id = handle->device_id;
    desc->schema = &schema;
    if (const infiniStatus_t status = validate(schema, tensors, attrs, desc->binding)) {
        return status;
    }
    if (const infiniStatus_t status = copy_attrs(*desc, attrs)) {
        return status;
    }
    const infiniopCall call{sizeof call,
                            schema.name,
                            schema.version,
                            handle->device,
                            handle->device_id,
                            schema.ntensors,
                            desc->binding.tensors.data(),
                            schema.nattrs,
                            desc->attrs.data()};
    const Kernel *kernel = nullptr;
    if (const infiniStatus_t status = choose_kernel(schema, *handle, call, &kernel)) {
        return status;
    }
    prepare_run(*desc);
    if (const infiniStatus_t status = create_state(*desc, call, *kernel)) {
        return status;
    }
    if (const infiniStatus_t status = shadow(*desc, call)) {
        return status;
    }
    *desc_ptr = desc.release();
    return INFINI_STATUS_SUCCESS;
}

// ---- references -------------------------------------------------------------------------------------------

void release(InfiniopDescriptor *desc) {
    if (desc->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        delete desc;
    }
}

std::shared_ptr<InfiniopDescriptor> hold(InfiniopDescriptor *desc) {
    desc->references.fetch_add(1, std::memory_order_relaxed);
    return {desc, release};
}

// ---- run: everything that is not the straight way ---------------------------------------------------------

[[gnu::cold, gnu::noinline]] infiniStatus_t wrong_descriptor(const OperatorSchema &schema,
                                                             const InfiniopDescriptor *desc) {
    const infiniStatus_t status = check_object(schema.name, "desc", desc);
    return status != INFINI_STATUS_SUCCESS
               ? status
               : fail(INFINI_STATUS_BAD_PARAM, schema.name, "desc", std::string("a descriptor of ") + schema.name,
                      std::string("one of ") + desc->schema->name);
}

[[gnu::cold, gnu::noinline]] infiniStatus_t null_data(const OperatorSchema &schema, uint64_t missing) {
    return fail(INFINI_STATUS_NULL_POINTER, schema.name, schema.tensors[__builtin_ctzll(missing)].name,
                "a pointer to the tensor's elements", "NULL");
}

[[gnu::cold, gnu::noinline]] infiniStatus_t bad_workspace(const OperatorSchema &schema, size_t needed, size_t got) {
    const std::string wanted = std::to_string(needed) + " bytes";
    return got < needed ? fail(INFINI_STATUS_INSUFFICIENT_WORKSPACE, schema.name, "workspace", wanted,
                               std::to_string(got) + " bytes")
                        : fail(INFINI_STATUS_NULL_POINTER, schema.name, "workspace", wanted, "NULL");
}

[[gnu::cold, gnu::noinline]] infiniStatus_t kernel_failed(const InfiniopDescriptor &desc, int status) {
    return plugin_failed(status, desc.schema->name, desc.kernel->backend->name);
}

[[gnu::cold, gnu::noinline]] infiniStatus_t bad_alias(const OperatorSchema &schema, const Apart &pair, bool same) {
    const std::string other = schema.tensors[pair.other].name;
    return fail(INFINI_STATUS_BAD_PARAM, schema.name, schema.tensors[pair.output].name,
                (pair.in_place ? "exactly the memory of " + other + ", or " : "") + "memory of its own beside " + other,
                same ? "the same pointer" : "memory that overlaps");
}

// Attributes given at run, among those given at create.
infiniStatus_t merge_attrs(const InfiniopDescriptor &desc, const infiniopValue *given, infiniopValue *merged) {
    const OperatorSchema &schema = *desc.schema;
    for (size_t a = 0; a < schema.nattrs; ++a) {
        const AttrSchema &attr = schema.attrs[a];
        merged[a] = attr.time == AttrTime::create ? desc.attrs[a] : given[a];
        if (attr.time == AttrTime::both && attr.kind != AttrKind::array) {
            const bool real = attr.kind == AttrKind::real;
            if (real ? given[a].f != desc.attrs[a].f : given[a].i != desc.attrs[a].i) {
                const auto text = [&](infiniopValue v) { return real ? std::to_string(v.f) : std::to_string(v.i); };
                return fail(INFINI_STATUS_BAD_PARAM, schema.name, attr.name, text(desc.attrs[a]) + " as at create",
                            text(given[a]));
            }
        }
    }
    for (size_t a = 0; a < schema.nattrs; ++a) {
        size_t bytes;
        if (schema.attrs[a].kind == AttrKind::array && schema.attrs[a].time != AttrTime::create) {
            if (const infiniStatus_t status =
                    array_bytes(schema, schema.attrs[a], merged[a], desc.binding.env(merged), &bytes)) {
                return status;
            }
        }
    }
    return desc.late_checks ? check_constraints(schema, desc.binding.env(merged), true) : INFINI_STATUS_SUCCESS;
}

// One call on a capturing stream, with copies of everything that belongs to the caller.
struct RecordedCall {
    std::shared_ptr<InfiniopDescriptor> desc;
    void *workspace;
    size_t workspace_size;
    std::vector<void *> data;
    std::vector<infiniopValue> attrs;
    std::vector<std::vector<char>> arrays;

    infiniStatus_t run(infinirtStream_t stream) const {
        const infiniopRun run{sizeof run, workspace, workspace_size, data.data(), attrs.data(), stream};
        const infiniStatus_t status = desc->calculate(desc->state, &run);
        return raw(status) == INFINI_STATUS_SUCCESS ? status : kernel_failed(*desc, raw(status));
    }
};

[[gnu::noinline]] infiniStatus_t record(InfiniopDescriptor *desc, const infiniopRun &run) {
    const OperatorSchema &schema = *desc->schema;
    auto call = std::make_shared<RecordedCall>(RecordedCall{hold(desc),
                                                            run.workspace,
                                                            run.workspace_size,
                                                            {run.data, run.data + schema.ntensors},
                                                            {run.attrs, run.attrs + schema.nattrs},
                                                            {}});
    for (size_t a = 0; a < schema.nattrs; ++a) {
        if (schema.attrs[a].kind == AttrKind::array && schema.attrs[a].time != AttrTime::create) {
            size_t bytes;
            if (const infiniStatus_t status =
                    array_bytes(schema, schema.attrs[a], run.attrs[a], desc->binding.env(run.attrs), &bytes)) {
                return status;
            }
            const char *values = static_cast<const char *>(run.attrs[a].p);
            call->arrays.emplace_back(values, values + bytes);
            call->attrs[a].p = call->arrays.back().data();
        }
    }
    return capture(schema.name, run.stream, [call](infinirtStream_t stream) { return call->run(stream); });
}

// ---- run: the straight way --------------------------------------------------------------------------------

infiniStatus_t run_checked(InfiniopDescriptor *desc, const infiniopRun &run) {
    if (is_capturing(run.stream)) {
        return record(desc, run);
    }
    const infiniStatus_t status = desc->calculate(desc->state, &run);
    return raw(status) == INFINI_STATUS_SUCCESS ? status : kernel_failed(*desc, raw(status));
}

[[gnu::noinline]] infiniStatus_t run_late(InfiniopDescriptor *desc, infiniopRun &run) {
    infiniopValue merged[max_attrs];
    if (const infiniStatus_t status = merge_attrs(*desc, run.attrs, merged)) {
        return status;
    }
    run.attrs = merged;
    return run_checked(desc, run);
}

infiniStatus_t run(const OperatorSchema &schema, InfiniopDescriptor *desc, void *workspace, size_t workspace_size,
                   void *const *data, const infiniopValue *attrs, void *stream) {
    if (!desc || desc->magic != InfiniopDescriptor::expected_magic || desc->schema != &schema) {
        return wrong_descriptor(schema, desc);
    }
    void *pointers[max_tensors];
    uint64_t missing = 0;
    for (size_t i = 0; i < schema.ntensors; ++i) {
        pointers[i] = desc->present & bit(i) ? data[i] : nullptr;
        missing |= pointers[i] ? 0 : bit(i);
    }
    if (missing & desc->required) {
        return null_data(schema, missing & desc->required);
    }
    if (workspace_size < desc->workspace_size || (!workspace && desc->workspace_size)) {
        return bad_workspace(schema, desc->workspace_size, workspace_size);
    }
    for (const Apart &pair : desc->apart) {
        const void *output = pointers[pair.output], *other = pointers[pair.other];
        const uintptr_t distance = reinterpret_cast<uintptr_t>(other) - reinterpret_cast<uintptr_t>(output);
        if (distance - pair.first < pair.count && (distance || !pair.in_place) && output && other) {
            return bad_alias(schema, pair, !distance);
        }
    }
    if (desc->outputs_empty) {
        return INFINI_STATUS_SUCCESS;
    }
    infiniopRun run{sizeof run, workspace, workspace ? workspace_size : 0, pointers, desc->attrs.data(), stream};
    if (desc->late_attrs || desc->late_checks) {
        run.attrs = attrs ? attrs : run.attrs;
        return run_late(desc, run);
    }
    return run_checked(desc, run);
}

bool answers_to(const InfiniopDescriptor &desc, const OperatorSchema &schema) {
    return desc.schema == &schema || desc.schema->shares == &schema || schema.shares == desc.schema;
}

} // namespace

infiniStatus_t create_descriptor(const OperatorSchema &schema, infiniopHandle_t handle, InfiniopDescriptor **desc_ptr,
                                 const infiniopTensorDescriptor_t *tensors, const infiniopValue *attrs) {
    return guarded(schema.name, [&] { return create(schema, handle, desc_ptr, tensors, attrs); });
}

infiniStatus_t workspace_size(const OperatorSchema &schema, const InfiniopDescriptor *desc, size_t *size) {
    return guarded(schema.name, [&] {
        if (!size) {
            return fail_null(schema.name, "size");
        }
        if (!desc || desc->magic != InfiniopDescriptor::expected_magic || !answers_to(*desc, schema)) {
            return wrong_descriptor(schema, desc);
        }
        *size = desc->workspace_size;
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t calculate(const OperatorSchema &schema, InfiniopDescriptor *desc, void *workspace, size_t workspace_size,
                         void *const *data, const infiniopValue *attrs, void *stream) {
    return guarded(schema.name, [&] { return run(schema, desc, workspace, workspace_size, data, attrs, stream); });
}

infiniStatus_t destroy_descriptor(const OperatorSchema &schema, InfiniopDescriptor *desc) {
    return guarded(schema.name, [&] {
        if (!desc) {
            return INFINI_STATUS_SUCCESS;
        }
        if (desc->magic != InfiniopDescriptor::expected_magic || !answers_to(*desc, schema)) {
            return wrong_descriptor(schema, desc);
        }
        desc->magic = 0; // a graph may hold it for longer, the caller may not
        release(desc);
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t not_built(const char *symbol) {
    return guarded(symbol, [&] {
        return fail(INFINI_STATUS_DEVICE_TYPE_NOT_SUPPORTED, symbol, "this operator is not built: no backend has it");
    });
}

} // namespace infini
