#include "plugin.hpp"

#include <dlfcn.h>

#include <cstddef>
#include <cstdlib>
#include <initializer_list>

namespace infini {
namespace {

constexpr const char *op = "infiniopLoadBackend";

void *allocate(size_t size, size_t alignment) {
    void *memory = nullptr;
    return posix_memalign(&memory, std::max(alignment, sizeof(void *)), std::max<size_t>(size, 1)) == 0 ? memory
                                                                                                        : nullptr;
}

// A member that must not be NULL.
struct Member {
    const char *name;
    bool present;
};
using Members = std::initializer_list<Member>;

const char *first_missing(Members members) {
    const auto missing = std::find_if(members.begin(), members.end(), [](const Member &m) { return !m.present; });
    return missing == members.end() ? nullptr : missing->name;
}

const char *missing_in_runtime(const infinirtRuntime &r) {
    return first_missing({{"device_count", !!r.device_count},
                          {"synchronize", !!r.synchronize},
                          {"malloc", !!r.malloc},
                          {"free", !!r.free},
                          {"memcpy", !!r.memcpy},
                          {"memcpy_async", !!r.memcpy_async},
                          {"memset", !!r.memset},
                          {"memset_async", !!r.memset_async},
                          {"stream_create", !!r.stream_create},
                          {"stream_destroy", !!r.stream_destroy},
                          {"stream_synchronize", !!r.stream_synchronize},
                          {"stream_wait_event", !!r.stream_wait_event},
                          {"event_create", !!r.event_create},
                          {"event_record", !!r.event_record},
                          {"event_query", !!r.event_query},
                          {"event_synchronize", !!r.event_synchronize},
                          {"event_elapsed", !!r.event_elapsed},
                          {"event_destroy", !!r.event_destroy}});
}

// All or none.
const char *missing_in_graphs(const infinirtRuntime &r) {
    const Members members{{"begin_capture", !!r.begin_capture},           {"end_capture", !!r.end_capture},
                          {"graph_destroy", !!r.graph_destroy},           {"graph_instantiate", !!r.graph_instantiate},
                          {"graph_exec_destroy", !!r.graph_exec_destroy}, {"graph_launch", !!r.graph_launch}};
    const bool any = std::any_of(members.begin(), members.end(), [](const Member &m) { return m.present; });
    return any ? first_missing(members) : nullptr;
}

bool ill_formed(const std::string &who, const std::string &why) {
    fail(INFINI_STATUS_BAD_PARAM, op, who + ": " + why);
    return false;
}

bool sized(size_t struct_size, size_t least, const std::string &who, const char *type) {
    return struct_size >= least ||
           ill_formed(who, std::string(type) + " of struct_size " + std::to_string(struct_size) +
                               ", expected at least " + std::to_string(least));
}

// Names stand in environment variables and in messages.
bool good_name(const char *name, const char *what, const std::string &origin) {
    const std::string_view text = name ? name : "";
    const bool good = !text.empty() && text.size() < 64 &&
                      text.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-.") == text.npos;
    return good ||
           ill_formed(origin, std::string(what) + ": expected lower-case letters, digits, '_', '-', '.', got '" +
                                  std::string(text.substr(0, 64)) + "'");
}

bool read_runtime(Backend &backend, const infinirtRuntime *table) {
    if (!sized(table->struct_size, offsetof(infinirtRuntime, begin_capture), backend.name, "infinirtRuntime")) {
        return false;
    }
    backend.runtime = known_part(table);
    backend.has_runtime = true;
    if (const char *missing = missing_in_runtime(backend.runtime)) {
        return ill_formed(backend.name, std::string("its runtime lacks ") + missing);
    }
    if (const char *missing = missing_in_graphs(backend.runtime)) {
        return ill_formed(backend.name, std::string("its runtime has some graph functions but lacks ") + missing);
    }
    if (!backend.runtime.malloc_host != !backend.runtime.free_host) {
        return ill_formed(backend.name, "its runtime has only one of malloc_host and free_host");
    }
    return true;
}

bool read_kernels(Backend &backend, const infiniopBackend &table) {
    if (table.nkernels && !table.kernels) {
        return ill_formed(backend.name, std::to_string(table.nkernels) + " kernels, but the array is NULL");
    }
    for (size_t i = 0; i < table.nkernels; ++i) {
        const std::string which = backend.name + ": kernel " + std::to_string(i);
        if (!table.kernels[i]) {
            return ill_formed(which, "NULL");
        }
        if (!sized(table.kernels[i]->struct_size, offsetof(infiniopKernel, destroy), which, "infiniopKernel")) {
            return false;
        }
        const Kernel kernel{known_part(table.kernels[i]), &backend};
        if (const char *missing =
                first_missing({{"op", !!kernel.op}, {"create", !!kernel.create}, {"calculate", !!kernel.calculate}})) {
            return ill_formed(which, std::string("lacks ") + missing);
        }
        if (!backend.kernels.emplace(kernel.op, kernel).second) {
            return ill_formed(backend.name, std::string("two kernels for ") + kernel.op);
        }
    }
    return true;
}

bool same_major(const infiniopBackend &table, const std::string &origin) {
    return table.abi_major == INFINIOP_BACKEND_ABI_MAJOR ||
           ill_formed(origin, "built for plugin ABI " + std::to_string(table.abi_major) + "." +
                                  std::to_string(table.abi_minor) + ", this library speaks " +
                                  std::to_string(INFINIOP_BACKEND_ABI_MAJOR) + "." +
                                  std::to_string(INFINIOP_BACKEND_ABI_MINOR));
}

bool read_into(Backend &backend, const infiniopBackend *theirs) {
    // The version stands before everything that another version may have moved.
    if (!sized(theirs->struct_size, offsetof(infiniopBackend, name), backend.origin, "infiniopBackend") ||
        !same_major(*theirs, backend.origin) ||
        !sized(theirs->struct_size, offsetof(infiniopBackend, runtime), backend.origin, "infiniopBackend")) {
        return false;
    }
    const infiniopBackend table = known_part(theirs);
    if (!good_name(table.name, "name", backend.origin) ||
        !good_name(table.device_name, "device_name", backend.origin)) {
        return false;
    }
    backend.name = table.name;
    backend.device_name = table.device_name;
    backend.version = table.version ? table.version : "";
    backend.priority = table.priority;
    backend.flags = table.flags;
    if (table.collectives) {
        if (!sized(table.collectives->struct_size, offsetof(infinicclCollectives, init_all), backend.name,
                   "infinicclCollectives")) {
            return false;
        }
        backend.collectives = known_part(table.collectives);
        backend.has_collectives = true;
    }
    return (!table.runtime || read_runtime(backend, table.runtime)) && read_kernels(backend, table);
}

// nullptr: the failure is noted.
const infiniopBackend *call_init(infiniopBackendInit_t init, const std::string &path) {
    expect_plugin();
    try {
        const infiniopBackend *table = init(&host_table());
        if (!table && plugin_said(INFINI_STATUS_SUCCESS) == INFINI_STATUS_SUCCESS) {
            fail(INFINI_STATUS_DEVICE_NOT_INITIALIZED, op, path + ": its init gave NULL and no reason");
        } else if (!table) {
            plugin_failed(plugin_said(INFINI_STATUS_SUCCESS), op, path);
        }
        return table;
    } catch (const std::exception &error) {
        fail(INFINI_STATUS_INTERNAL_ERROR, op, path + ": its init threw an exception: " + error.what());
    } catch (...) {
        fail(INFINI_STATUS_INTERNAL_ERROR, op, path + ": its init threw an exception");
    }
    return nullptr;
}

} // namespace

const infiniopHost &host_table() {
    static const infiniopHost host{sizeof(infiniopHost),
                                   INFINIOP_BACKEND_ABI_MAJOR,
                                   INFINIOP_BACKEND_ABI_MINOR,
                                   set_error,
                                   log,
                                   allocate,
                                   std::free};
    return host;
}

const infiniopBackend *open_plugin(const std::string &path) {
    const std::string wrong = unloadable(path);
    void *library = wrong.empty() ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr; // never closed
    if (!library) {
        const char *why = wrong.empty() ? dlerror() : wrong.c_str();
        fail(INFINI_STATUS_BAD_PARAM, op, "cannot load " + path + ": " + (why ? why : "unknown reason"));
        return nullptr;
    }
    const auto init = reinterpret_cast<infiniopBackendInit_t>(dlsym(library, INFINIOP_BACKEND_INIT_SYMBOL));
    if (!init) {
        fail(INFINI_STATUS_BAD_PARAM, op, path + " is no plugin: it does not export " INFINIOP_BACKEND_INIT_SYMBOL);
        return nullptr;
    }
    return call_init(init, path);
}

std::unique_ptr<Backend> read_backend(const infiniopBackend *table, const std::string &origin) {
    auto backend = std::make_unique<Backend>();
    backend->origin = origin;
    backend->table = table;
    return read_into(*backend, table) ? std::move(backend) : nullptr;
}

} // namespace infini
