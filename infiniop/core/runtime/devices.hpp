// The current device of a thread, and calls into a device's runtime.
#pragma once

#include "registry.hpp"

namespace [[gnu::visibility("default")]] infini {

struct Device {
    infiniDevice_t type = INFINI_DEVICE_CPU;
    int id = 0;                       // as the backend counts; the CPU is always 0
    const Backend *backend = nullptr; // brings the runtime

    bool operator==(const Device &other) const { return backend == other.backend && id == other.id; }
    bool operator!=(const Device &other) const { return !(*this == other); }
};

std::string describe(const Device &device); // "nvidia 1"

infiniStatus_t current_device(const char *op, Device *device);
infiniStatus_t explicit_device(const char *op, int type, int id, Device *device);

// Call the runtime; a failure gets a message in any case.
template <class Call> infiniStatus_t on(const Device &device, const char *op, Call &&call) {
    expect_plugin();
    const infiniStatus_t status = call(device.backend->runtime, device.id);
    return raw(status) == INFINI_STATUS_SUCCESS ? status : plugin_failed(raw(status), op, device.backend->name);
}

} // namespace infini
