// Which device a stream or an event belongs to. Internal to libinfinirt.
#pragma once

#include <mutex>
#include <optional>
#include <unordered_map>

#include "devices.hpp"

namespace infini {

// Objects that runtimes gave out, with their devices. Handles are the runtimes' own: they cannot carry a mark.
class Owned {
public:
    void add(void *object, const Device &device) {
        const std::lock_guard lock(mutex_);
        devices_[object] = device;
    }
    void remove(void *object) {
        const std::lock_guard lock(mutex_);
        devices_.erase(object);
    }
    std::optional<Device> find(void *object) const {
        const std::lock_guard lock(mutex_);
        const auto found = devices_.find(object);
        return found == devices_.end() ? std::nullopt : std::optional(found->second);
    }

private:
    mutable std::mutex mutex_;
    std::unordered_map<void *, Device> devices_;
};

Owned &streams();
Owned &events();

// The stream's device; the current one for NULL and for streams that were made elsewhere.
infiniStatus_t stream_device(const char *op, infinirtStream_t stream, Device *device);

} // namespace infini
