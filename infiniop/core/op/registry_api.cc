// include/infiniop/registry.h on the registry of libinfinirt.
#include "infiniop/registry.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <set>

#include "dispatch.hpp"
#include "runtime/devices.hpp"
#include "runtime/plugin.hpp"

namespace infini {
namespace {

int count_devices(const Backend &backend) {
    int count = 0;
    const bool known = backend.error.empty() && infinirtGetDeviceCount(backend.device, &count) == INFINI_STATUS_SUCCESS;
    return known ? count : 0;
}

const OperatorSchema *find_schema(std::string_view op) {
    const auto end = operator_schemas + operator_schema_count;
    const auto found = std::find_if(operator_schemas, end, [&](const OperatorSchema *s) { return op == s->name; });
    return found == end ? nullptr : *found;
}

bool usable(const Kernel &kernel) {
    const OperatorSchema *schema = find_schema(kernel.op);
    return schema && schema->version == kernel.schema_version;
}

size_t count_usable(const Backend &backend) {
    const auto &all = backend.kernels;
    return static_cast<size_t>(
        std::count_if(all.begin(), all.end(), [](const auto &entry) { return usable(entry.second); }));
}

std::string kernel_note(const Kernel &kernel) {
    const OperatorSchema *schema = find_schema(kernel.op);
    return !schema ? std::string("unknown operator ") + kernel.op
                   : std::string(kernel.op) + " is of schema version " + std::to_string(kernel.schema_version) +
                         ", this library speaks " + std::to_string(schema->version);
}

// What of a backend is not used, in alphabetical order.
std::string notes(const Backend &backend) {
    std::set<std::string> found;
    for (const auto &entry : backend.kernels) {
        if (!usable(entry.second)) {
            found.insert(kernel_note(entry.second));
        }
    }
    const Backend *serves = runtime_backend(backend.device);
    if (!serves) {
        found.insert("nobody brings a runtime for device '" + backend.device_name + "'");
    } else if (backend.has_runtime && serves != &backend) {
        found.insert("its runtime is not used: device '" + backend.device_name + "' has that of backend '" +
                     serves->name + "'");
    }
    std::string text;
    for (const std::string &note : found) {
        text += (text.empty() ? "" : "; ") + note;
    }
    return text;
}

// Strings that live as long as the process.
const char *forever(const std::string &text) {
    static std::mutex mutex;
    static auto *const all = new std::set<std::string>;
    const std::lock_guard lock(mutex);
    return all->insert(text).first->c_str();
}

infiniopBackendInfo describe(const Backend &b) {
    infiniopBackendInfo info{};
    info.name = b.name.c_str();
    info.device_name = b.device_name.c_str();
    info.device = b.device;
    info.version = b.version.c_str();
    info.origin = b.origin.c_str();
    info.priority = b.priority;
    info.flags = b.flags;
    info.device_count = count_devices(b);
    info.nkernels = count_usable(b);
    info.error = b.error.c_str();
    info.fallbacks = b.fallbacks;
    info.notes = b.error.empty() ? forever(notes(b)) : "";
    return info;
}

} // namespace
} // namespace infini

using namespace infini;

const char *infiniopGetLastError() { return last_failure().message.c_str(); }

infiniStatus_t infiniopGetLastErrorInfo(infiniopError *error) {
    return guarded(__func__, [&] {
        if (!error) {
            return fail_null("infiniopGetLastErrorInfo", "error");
        }
        const Failure &last = last_failure();
        return give("infiniopGetLastErrorInfo",
                    infiniopError{sizeof(infiniopError), last.status, last.op.c_str(), last.argument.c_str(),
                                  last.expected.c_str(), last.got.c_str(), last.message.c_str()},
                    error);
    });
}

infiniStatus_t infiniopLoadBackend(const char *path) {
    return guarded(__func__, [&] { return path ? load_backend(path) : fail_null("infiniopLoadBackend", "path"); });
}

infiniStatus_t infiniopRegisterBackend(const infiniopBackend *backend) {
    return guarded(__func__, [&] {
        return backend ? register_backend(backend, "this process") : fail_null("infiniopRegisterBackend", "backend");
    });
}

infiniStatus_t infiniopReportBackendError(const char *name, const char *origin, const char *message) {
    return guarded(__func__, [&] {
        if (!name) {
            return fail_null("infiniopReportBackendError", "name");
        }
        report_backend_error(name, origin ? origin : "", message ? message : "");
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t infiniopGetBackendCount(size_t *count) {
    return guarded(__func__, [&] {
        if (!count) {
            return fail_null("infiniopGetBackendCount", "count");
        }
        *count = all_backends().size();
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t infiniopGetBackendInfo(size_t index, infiniopBackendInfo *info) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infiniopGetBackendInfo";
        if (!info) {
            return fail_null(op, "info");
        }
        const std::vector<const Backend *> all = all_backends();
        if (index >= all.size()) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "index", "less than " + std::to_string(all.size()),
                        std::to_string(index));
        }
        return give(op, describe(*all[index]), info);
    });
}

infiniStatus_t infiniopBackendHasOperator(const char *backend, const char *op, int *has) {
    return guarded(__func__, [&] {
        constexpr const char *function = "infiniopBackendHasOperator";
        if (!backend || !op || !has) {
            return fail_null(function, !backend ? "backend" : !op ? "op" : "has");
        }
        const Backend *named = find_backend(backend);
        if (!named) {
            return fail(INFINI_STATUS_BAD_PARAM, function, "backend", "one that is loaded", backend);
        }
        const Kernel *kernel = named->kernel(op);
        *has = kernel && usable(*kernel) ? 1 : 0;
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t infiniopGetKernel(const char *backend, const char *op, infiniopKernel *kernel) {
    return guarded(__func__, [&] {
        constexpr const char *function = "infiniopGetKernel";
        if (!backend || !op || !kernel) {
            return fail_null(function, !backend ? "backend" : !op ? "op" : "kernel");
        }
        const Backend *named = find_backend(backend);
        const Kernel *found = named ? named->kernel(op) : nullptr;
        if (!found) {
            return fail(INFINI_STATUS_BAD_PARAM, function, named ? "op" : "backend",
                        named ? "an operator that " + named->name + " has" : "one that is loaded",
                        named ? op : backend);
        }
        return give<infiniopKernel>(function, *found, kernel);
    });
}

infiniStatus_t infiniopGetDeviceByName(const char *name, infiniDevice_t *device) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infiniopGetDeviceByName";
        if (!name || !device) {
            return fail_null(op, name ? "device" : "name");
        }
        return device_by_name(name, device)
                   ? INFINI_STATUS_SUCCESS
                   : fail(INFINI_STATUS_DEVICE_TYPE_NOT_SUPPORTED, op, "name", "the name of a device", name);
    });
}

infiniStatus_t infiniopGetDeviceName(infiniDevice_t device, const char **name) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infiniopGetDeviceName";
        if (!name) {
            return fail_null(op, "name");
        }
        const char *found = device_name(raw(device));
        if (!found) {
            return fail(INFINI_STATUS_DEVICE_TYPE_NOT_SUPPORTED, op, "device", "a known device type",
                        std::to_string(raw(device)));
        }
        *name = found;
        return INFINI_STATUS_SUCCESS;
    });
}

const infiniopHost *infiniopGetHost() { return &host_table(); }

const char *infiniopGetVersion() { return INFINIOP_VERSION; }

infiniStatus_t infiniopGetBackendAbiVersion(uint32_t *major, uint32_t *minor) {
    return guarded(__func__, [&] {
        if (!major || !minor) {
            return fail_null("infiniopGetBackendAbiVersion", major ? "minor" : "major");
        }
        *major = INFINIOP_BACKEND_ABI_MAJOR;
        *minor = INFINIOP_BACKEND_ABI_MINOR;
        return INFINI_STATUS_SUCCESS;
    });
}
