// Backends: what they bring, who serves what, and the names and numbers of devices.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "error.hpp"

namespace [[gnu::visibility("default")]] infini {

struct Backend;

// A kernel as its plugin gave it; fields beyond the plugin's struct_size are zero.
struct Kernel : infiniopKernel {
    const Backend *backend;
};

// One row of the registry. Immutable once it is in, but for the counter; never freed.
struct Backend {
    std::string name, device_name, version, origin;
    std::string error; // not empty: it could not be loaded, and nothing below counts
    infiniDevice_t device = INFINI_DEVICE_ENUM_MAX;
    int32_t priority = 0;
    uint32_t flags = 0;
    bool has_runtime = false, has_collectives = false;
    infinirtRuntime runtime{};
    infinicclCollectives collectives{};
    std::unordered_map<std::string_view, Kernel> kernels; // keys live in the plugin
    const infiniopBackend *table = nullptr;
    mutable std::atomic<uint64_t> fallbacks{0};

    const Kernel *kernel(std::string_view op) const {
        const auto found = kernels.find(op);
        return found == kernels.end() ? nullptr : &found->second;
    }
};

// Every call discovers plugins first (once per process). Devices are infiniDevice_t or whatever number came in.

std::vector<const Backend *> all_backends();
const Backend *find_backend(std::string_view name); // loaded ones only

// In the order in which they are asked; fallbacks (INFINIOP_FALLBACK) come last, from `first_fallback` on.
struct Candidates {
    std::vector<const Backend *> backends;
    size_t first_fallback = 0;
};
Candidates candidates(int device);
// The names of those that have the operator, with their devices: "cpu (cpu), acme (toy)".
std::string who_has(std::string_view op);
const char *narrowing(); // INFINIOP_BACKENDS, or ""

// The backend whose runtime (collectives) serves the device; nullptr: none.
const Backend *runtime_backend(int device);
const Backend *collectives_backend(int device);

const char *device_name(int device); // nullptr: no such device
bool device_by_name(std::string_view name, infiniDevice_t *device);

infiniStatus_t load_backend(const char *path);
infiniStatus_t register_backend(const infiniopBackend *table, const char *origin);
void report_backend_error(std::string_view name, std::string_view origin, std::string_view message);

} // namespace infini
