#include "devices.hpp"

namespace infini {
namespace {

struct Current {
    infiniDevice_t type = INFINI_DEVICE_CPU;
    int id = 0;                       // as it was set: the CPU takes any
    const Backend *backend = nullptr; // looked up at first use
};

Current &current() {
    thread_local Current device;
    return device;
}

int native_id(int type, int id) { return type == INFINI_DEVICE_CPU ? 0 : id; }

infiniStatus_t no_runtime(const char *op, int type) {
    std::string text = std::string("no backend brings a runtime for device '") + device_name(type) + "'";
    for (const Backend *backend : all_backends()) {
        if (!backend->error.empty() && backend->device == type) {
            text += "; " + backend->name + " could not be loaded: " + backend->error;
        }
    }
    return fail(INFINI_STATUS_DEVICE_TYPE_NOT_SUPPORTED, op, text);
}

infiniStatus_t unknown_device(const char *op, int type) {
    return fail(INFINI_STATUS_DEVICE_TYPE_NOT_SUPPORTED, op, "device", "a known device type", std::to_string(type));
}

infiniStatus_t count_devices(const char *op, const Backend &backend, int *count) {
    return on({backend.device, 0, &backend}, op, [&](const infinirtRuntime &r, int) { return r.device_count(count); });
}

} // namespace

std::string describe(const Device &device) { return device.backend->device_name + " " + std::to_string(device.id); }

infiniStatus_t current_device(const char *op, Device *device) {
    Current &now = current();
    if (!now.backend) {
        now.backend = runtime_backend(now.type);
        if (!now.backend) {
            return no_runtime(op, now.type);
        }
    }
    *device = {now.type, native_id(now.type, now.id), now.backend};
    return INFINI_STATUS_SUCCESS;
}

infiniStatus_t explicit_device(const char *op, int type, int id, Device *device) {
    if (!device_name(type)) {
        return unknown_device(op, type);
    }
    const Backend *backend = runtime_backend(type);
    if (!backend) {
        return no_runtime(op, type);
    }
    if (type != INFINI_DEVICE_CPU) {
        int count = 0;
        if (const infiniStatus_t status = count_devices(op, *backend, &count)) {
            return status;
        }
        if (id < 0 || id >= count) {
            return fail(INFINI_STATUS_DEVICE_NOT_FOUND, op, "device_id",
                        "one of the " + std::to_string(count) + " devices of type " + backend->device_name,
                        std::to_string(id));
        }
    }
    *device = {backend->device, native_id(type, id), backend};
    return INFINI_STATUS_SUCCESS;
}

} // namespace infini

using namespace infini;

infiniStatus_t infinirtInit() { return INFINI_STATUS_SUCCESS; }

infiniStatus_t infinirtGetDeviceCount(infiniDevice_t device, int *count) {
    return guarded(__func__, [&] {
        if (!count) {
            return fail_null("infinirtGetDeviceCount", "count");
        }
        if (!device_name(raw(device))) {
            return unknown_device("infinirtGetDeviceCount", raw(device));
        }
        int found = 0;
        if (const Backend *backend = runtime_backend(raw(device))) {
            if (const infiniStatus_t status = count_devices("infinirtGetDeviceCount", *backend, &found)) {
                return status;
            }
        }
        *count = found;
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t infinirtGetAllDeviceCount(int *count_array) {
    if (!count_array) {
        return guarded(__func__, [] { return fail_null("infinirtGetAllDeviceCount", "count_array"); });
    }
    int counts[INFINI_DEVICE_TYPE_COUNT];
    for (int type = 0; type < INFINI_DEVICE_TYPE_COUNT; ++type) {
        if (const infiniStatus_t status = infinirtGetDeviceCount(static_cast<infiniDevice_t>(type), &counts[type])) {
            return status;
        }
    }
    std::copy(std::begin(counts), std::end(counts), count_array);
    return INFINI_STATUS_SUCCESS;
}

infiniStatus_t infinirtSetDevice(infiniDevice_t device, int device_id) {
    return guarded(__func__, [&] {
        Device chosen;
        if (const infiniStatus_t status = explicit_device("infinirtSetDevice", raw(device), device_id, &chosen)) {
            return status;
        }
        const infiniStatus_t status = on(chosen, "infinirtSetDevice", [](const infinirtRuntime &r, int id) {
            return r.set_device ? r.set_device(id) : INFINI_STATUS_SUCCESS;
        });
        if (status == INFINI_STATUS_SUCCESS) {
            current() = {chosen.type, device_id, chosen.backend};
        }
        return status;
    });
}

infiniStatus_t infinirtGetDevice(infiniDevice_t *device_ptr, int *device_id_ptr) {
    return guarded(__func__, [&] {
        if (!device_ptr && !device_id_ptr) {
            return fail_null("infinirtGetDevice", "device_ptr and device_id_ptr");
        }
        if (device_ptr) {
            *device_ptr = current().type;
        }
        if (device_id_ptr) {
            *device_id_ptr = current().id;
        }
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t infinirtGetMemInfo(infiniDevice_t device, int device_id, size_t *free_bytes, size_t *total_bytes) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtGetMemInfo";
        if (!free_bytes || !total_bytes) {
            return fail_null(op, free_bytes ? "total_bytes" : "free_bytes");
        }
        Device where;
        if (const infiniStatus_t status = explicit_device(op, raw(device), device_id, &where)) {
            return status;
        }
        if (!where.backend->runtime.mem_info) {
            return fail(INFINI_STATUS_DEVICE_TYPE_NOT_SUPPORTED, op, describe(where) + " does not tell its memory");
        }
        size_t free = 0, total = 0;
        const infiniStatus_t status =
            on(where, op, [&](const infinirtRuntime &r, int id) { return r.mem_info(id, &free, &total); });
        if (status == INFINI_STATUS_SUCCESS) {
            *free_bytes = free;
            *total_bytes = total;
        }
        return status;
    });
}

infiniStatus_t infinirtGetDeviceResourceSnapshot(infiniDevice_t device, int device_id,
                                                 infinirtDeviceResourceSnapshot_t *snapshot) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtGetDeviceResourceSnapshot";
        if (!snapshot) {
            return fail_null(op, "snapshot");
        }
        Device where;
        if (const infiniStatus_t status = explicit_device(op, raw(device), device_id, &where)) {
            return status;
        }
        infinirtDeviceResourceSnapshot_t found{};
        found.device_type = where.type;
        found.device_id = device_id;
        infiniStatus_t status;
        if (where.backend->runtime.snapshot) {
            status = on(where, op, [&](const infinirtRuntime &r, int id) { return r.snapshot(id, &found); });
        } else {
            status = infinirtGetMemInfo(where.type, device_id, &found.free_bytes, &found.total_bytes);
            found.used_bytes = found.total_bytes - found.free_bytes;
            found.valid_fields = INFINIRT_RESOURCE_FIELD_MEMORY_CAPACITY;
        }
        if (status == INFINI_STATUS_SUCCESS) {
            *snapshot = found;
        }
        return status;
    });
}
