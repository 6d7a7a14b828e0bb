#include "registry.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "plugin.hpp"
#include "text.hpp"

namespace infini {
namespace {

constexpr std::array<const char *, INFINI_DEVICE_TYPE_COUNT> builtin_devices{
    "cpu", "nvidia", "cambricon", "ascend", "metax", "moore", "iluvatar", "kunlun", "hygon", "qy", "ali"};

// What the environment asks for; read once.
struct Wishes {
    std::string narrowing;
    std::vector<std::string> only, fallback;
};

Wishes read_wishes() {
    const char *only = std::getenv("INFINIOP_BACKENDS");
    return {only ? only : "", split(only, ','), split(std::getenv("INFINIOP_FALLBACK"), ',')};
}

struct State {
    mutable std::shared_mutex mutex;
    std::vector<std::unique_ptr<Backend>> rows; // append only
    std::map<std::string, infiniDevice_t, std::less<>> registered_devices;
    std::map<int, std::string> registered_names; // nodes never move: the strings can be handed out
    const Wishes wishes = read_wishes();
};

State &state() {
    static State *const forever = new State; // plugins and threads may outlive static destructors
    return *forever;
}

// ---- under the lock

const Backend *find_row(std::string_view name) {
    for (const auto &row : state().rows) {
        if (row->error.empty() && row->name == name) {
            return row.get();
        }
    }
    return nullptr;
}

bool lookup_device(std::string_view name, infiniDevice_t *device) {
    const auto builtin = std::find(builtin_devices.begin(), builtin_devices.end(), name);
    if (builtin != builtin_devices.end()) {
        *device = static_cast<infiniDevice_t>(builtin - builtin_devices.begin());
        return true;
    }
    const auto registered = state().registered_devices.find(name);
    if (registered == state().registered_devices.end()) {
        return false;
    }
    *device = registered->second;
    return true;
}

infiniDevice_t number_device(const std::string &name) {
    infiniDevice_t device;
    if (!lookup_device(name, &device)) {
        State &s = state();
        device = static_cast<infiniDevice_t>(INFINI_DEVICE_FIRST_REGISTERED + s.registered_devices.size());
        s.registered_names.emplace(device, name);
        s.registered_devices.emplace(name, device);
    }
    return device;
}

// ---- taking the lock

infiniStatus_t add(std::unique_ptr<Backend> backend) {
    const std::unique_lock lock(state().mutex);
    if (const Backend *other = find_row(backend->name)) {
        return fail(INFINI_STATUS_BAD_PARAM, "infiniopLoadBackend",
                    backend->origin + ": a backend named '" + backend->name + "' is already there, from " +
                        other->origin);
    }
    backend->device = number_device(backend->device_name);
    state().rows.push_back(std::move(backend));
    return INFINI_STATUS_SUCCESS;
}

void add_error(Backend &&known, std::string_view error) {
    const std::unique_lock lock(state().mutex);
    for (const auto &row : state().rows) {
        if (row->error == error && row->name == known.name && row->origin == known.origin) {
            return;
        }
    }
    auto row = std::make_unique<Backend>();
    row->name = std::move(known.name);
    row->device_name = std::move(known.device_name);
    row->origin = std::move(known.origin);
    row->error = error.empty() ? "unknown error" : error;
    lookup_device(row->device_name, &row->device);
    state().rows.push_back(std::move(row));
}

// ---- discovery

std::string stem(const std::string &path) {
    const std::string name = std::filesystem::path(path).stem().string();
    return name.rfind("lib", 0) == 0 ? name.substr(3) : name;
}

bool fits_manifest(const Backend &backend, const Manifest &manifest) {
    if ((manifest.name.empty() || backend.name == manifest.name) &&
        (manifest.device.empty() || backend.device_name == manifest.device)) {
        return true;
    }
    fail(INFINI_STATUS_BAD_PARAM, "infiniopLoadBackend",
         manifest.library + ": its manifest says backend '" + manifest.name + "' for device '" + manifest.device +
             "', the library says '" + backend.name + "' for '" + backend.device_name + "'");
    return false;
}

infiniStatus_t load(const Manifest &manifest) {
    const infiniopBackend *table = manifest.error.empty() ? open_plugin(manifest.library) : nullptr;
    if (!manifest.error.empty()) {
        return fail(INFINI_STATUS_BAD_PARAM, "infiniopLoadBackend", manifest.error);
    }
    if (table) {
        const std::shared_lock lock(state().mutex);
        for (const auto &row : state().rows) {
            if (row->error.empty() && row->table == table) {
                return INFINI_STATUS_SUCCESS; // the same library once more
            }
        }
    }
    std::unique_ptr<Backend> backend = table ? read_backend(table, manifest.library) : nullptr;
    if (!backend || !fits_manifest(*backend, manifest)) {
        return last_failure().status;
    }
    backend->priority = manifest.priority.value_or(backend->priority);
    return add(std::move(backend));
}

infiniStatus_t load_or_note(const Manifest &manifest) {
    const infiniStatus_t status = guarded("infiniopLoadBackend", [&] { return load(manifest); });
    if (status != INFINI_STATUS_SUCCESS) {
        Backend known;
        known.name = manifest.name.empty() ? stem(manifest.library) : manifest.name;
        known.device_name = manifest.device;
        known.origin = manifest.library;
        add_error(std::move(known), last_failure().message);
        log(INFINIOP_LOG_INFO, last_failure().message.c_str());
    }
    return status;
}

std::vector<std::string> libraries_in(const std::string &folder) {
    std::vector<std::string> found;
    std::error_code error;
    for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
        if (it->path().extension() == ".so") {
            found.push_back(it->path().string());
        }
    }
    std::sort(found.begin(), found.end());
    return found;
}

void discover() {
    const Failure before = last_failure(); // what fails to load here is no failure of the caller's
    for (const std::string &entry : split(secure_getenv("INFINIOP_BACKEND_PATH"), ':')) {
        std::error_code error;
        const bool folder = std::filesystem::is_directory(entry, error);
        // A file of the working directory is meant before one that the dynamic linker finds by that name.
        const bool here = std::filesystem::exists(entry, error);
        const std::string file = here ? std::filesystem::absolute(entry, error).string() : entry;
        for (const std::string &path : folder ? libraries_in(entry) : std::vector<std::string>{file}) {
            load_or_note({{}, path, {}, {}, {}});
        }
    }
    for (const Manifest &manifest : read_manifests(library_directory())) {
        load_or_note(manifest);
    }
    last_failure() = before;
}

// A plugin's init may call back into the registry: it then sees what is there so far.
State &discovered() {
    static std::once_flag once;
    thread_local bool discovering = false;
    if (!discovering) {
        std::call_once(once, [] {
            discovering = true;
            guarded("backend discovery", [] {
                discover();
                return INFINI_STATUS_SUCCESS;
            });
            discovering = false;
        });
    }
    return state();
}

template <class Bring> const Backend *first_of(int device, Bring &&brings) {
    const State &s = discovered();
    const std::shared_lock lock(s.mutex);
    const auto row = std::find_if(s.rows.begin(), s.rows.end(),
                                  [&](const auto &b) { return b->error.empty() && b->device == device && brings(*b); });
    return row == s.rows.end() ? nullptr : row->get();
}

} // namespace

std::vector<const Backend *> all_backends() {
    const State &s = discovered();
    const std::shared_lock lock(s.mutex);
    std::vector<const Backend *> all;
    for (const auto &row : s.rows) {
        all.push_back(row.get());
    }
    return all;
}

const Backend *find_backend(std::string_view name) {
    const State &s = discovered();
    const std::shared_lock lock(s.mutex);
    return find_row(name);
}

Candidates candidates(int device) {
    const State &s = discovered();
    const std::shared_lock lock(s.mutex);
    Candidates result;
    const auto take = [&](const Backend *backend) {
        if (backend && backend->device == device &&
            std::find(result.backends.begin(), result.backends.end(), backend) == result.backends.end()) {
            result.backends.push_back(backend);
        }
    };
    for (const std::string &name : s.wishes.only) {
        take(find_row(name));
    }
    if (s.wishes.only.empty()) {
        for (const auto &row : s.rows) {
            take(row->error.empty() && !(row->flags & INFINIOP_BACKEND_EXPLICIT_ONLY) ? row.get() : nullptr);
        }
        std::stable_sort(result.backends.begin(), result.backends.end(),
                         [](const Backend *a, const Backend *b) { return a->priority > b->priority; });
    }
    result.first_fallback = result.backends.size();
    for (const std::string &name : s.wishes.fallback) {
        take(find_row(name));
    }
    return result;
}

std::string who_has(std::string_view op) {
    std::string text;
    for (const Backend *backend : all_backends()) {
        if (backend->error.empty() && backend->kernel(op)) {
            text += (text.empty() ? "" : ", ") + backend->name + " (" + backend->device_name + ")";
        }
    }
    return text;
}

const char *narrowing() { return state().wishes.narrowing.c_str(); }

const Backend *runtime_backend(int device) {
    return first_of(device, [](const Backend &b) { return b.has_runtime; });
}

const Backend *collectives_backend(int device) {
    return first_of(device, [](const Backend &b) { return b.has_collectives; });
}

const char *device_name(int number) {
    if (number >= 0 && number < INFINI_DEVICE_TYPE_COUNT) {
        return builtin_devices[static_cast<size_t>(number)];
    }
    const State &s = discovered();
    const std::shared_lock lock(s.mutex);
    const auto name = s.registered_names.find(number);
    return name == s.registered_names.end() ? nullptr : name->second.c_str();
}

bool device_by_name(std::string_view name, infiniDevice_t *device) {
    const State &s = discovered();
    const std::shared_lock lock(s.mutex);
    return lookup_device(name, device);
}

infiniStatus_t load_backend(const char *path) {
    discovered();
    return load_or_note({{}, path, {}, {}, {}});
}

infiniStatus_t register_backend(const infiniopBackend *table, const char *origin) {
    discovered();
    std::unique_ptr<Backend> backend = read_backend(table, origin);
    return backend ? add(std::move(backend)) : last_failure().status;
}

void report_backend_error(std::string_view name, std::string_view origin, std::string_view message) {
    discovered();
    Backend known;
    known.name = name;
    known.origin = origin;
    add_error(std::move(known), message);
}

} // namespace infini
