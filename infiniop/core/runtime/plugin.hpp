// From a plugin's tables to a row of the registry, and structs that carry their size.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>

#include "registry.hpp"

namespace infini {

[[gnu::visibility("default")]] const infiniopHost &host_table();

// A copy in which the fields beyond the other side's struct_size are zero.
template <class Struct> Struct known_part(const Struct *theirs) {
    Struct ours;
    std::memset(&ours, 0, sizeof ours);
    std::memcpy(&ours, theirs, std::min(theirs->struct_size, sizeof ours));
    return ours;
}

// Write as much of `ours` as the caller's struct has room for.
template <class Struct> infiniStatus_t give(const char *op, Struct ours, Struct *theirs) {
    const size_t size = theirs->struct_size;
    if (size < sizeof size) {
        return fail(INFINI_STATUS_BAD_PARAM, op, "struct_size", "the struct's size, set by the caller",
                    std::to_string(size));
    }
    ours.struct_size = std::min(size, sizeof ours);
    std::memcpy(theirs, &ours, ours.struct_size);
    return INFINI_STATUS_SUCCESS;
}

// Why the file cannot be a plugin on this machine; "": nothing speaks against it.
std::string unloadable(const std::string &path);

// Open a library and call its init. nullptr: the failure is noted.
const infiniopBackend *open_plugin(const std::string &path);

// Check the tables. nullptr: the failure is noted. The device's number is not set yet.
std::unique_ptr<Backend> read_backend(const infiniopBackend *table, const std::string &origin);

// What a manifest says; `library` is absolute.
struct Manifest {
    std::string name, library, device, error;
    std::optional<int32_t> priority;
};

std::string library_directory(); // of libinfinirt
std::vector<Manifest> read_manifests(const std::string &library_directory);

} // namespace infini
