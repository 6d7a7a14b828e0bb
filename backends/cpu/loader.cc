// The plugin libinfiniop_cpu.so: picks the library for the best instruction set that this machine has, opens only that
// one and hands over. This file runs before anything is known about the machine: it is built for the baseline.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <dlfcn.h>

#include "infiniop/backend.h"

namespace {

struct Isa {
    const char *name;
    bool (*supported)();
};

#if defined(__x86_64__)
bool has_v3() { return __builtin_cpu_supports("x86-64-v3"); }
bool has_v4() { return __builtin_cpu_supports("x86-64-v4"); }
bool has_v4bf16() { return has_v4() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"); }
#endif
bool has_portable() { return true; }

// The best first.
constexpr Isa isas[] = {
#if defined(__x86_64__)
    {"v4bf16", has_v4bf16},
    {"v4", has_v4},
    {"v3", has_v3},
#endif
    {"portable", has_portable},
};

void fail(const infiniopHost *host, infiniStatus_t status, const char *message) {
    const infiniopError error = {sizeof(error), status, nullptr, nullptr, nullptr, nullptr, message};
    host->set_error(&error);
}

// nullptr: refused, and the host knows why.
const Isa *choose(const infiniopHost *host) {
    const char *forced = getenv("INFINIOP_CPU_ISA");
    for (const Isa &isa : isas) {
        const bool wanted = !forced || !*forced || strcmp(forced, isa.name) == 0;
        if (wanted && isa.supported()) {
            return &isa;
        }
        if (wanted && forced && *forced) {
            char text[128];
            snprintf(text, sizeof(text), "INFINIOP_CPU_ISA=%s: this machine lacks that instruction set", isa.name);
            fail(host, INFINI_STATUS_DEVICE_ARCHITECTURE_NOT_SUPPORTED, text);
            return nullptr;
        }
    }
    char text[256];
    snprintf(text, sizeof(text), "INFINIOP_CPU_ISA=%.64s: expected one of portable, v3, v4, v4bf16 that this build has",
             forced ? forced : "");
    fail(host, INFINI_STATUS_BAD_PARAM, text);
    return nullptr;
}

// The library of that instruction set, which lies beside this one.
bool library_path(const char *isa, char *path, size_t size) {
    Dl_info here;
    if (!dladdr(reinterpret_cast<const void *>(&library_path), &here) || !here.dli_fname) {
        return false;
    }
    const char *slash = strrchr(here.dli_fname, '/');
    const int directory = slash ? int(slash - here.dli_fname) : 1;
    const int n = snprintf(path, size, "%.*s/libinfiniop_cpu_%s.so", directory, slash ? here.dli_fname : ".", isa);
    return n > 0 && size_t(n) < size;
}

} // namespace

extern "C" __attribute__((visibility("default"))) const infiniopBackend *
infiniop_backend_init(const infiniopHost *host) {
    const Isa *isa = choose(host);
    if (!isa) {
        return nullptr;
    }
    char path[4096];
    if (!library_path(isa->name, path, sizeof(path))) {
        fail(host, INFINI_STATUS_INTERNAL_ERROR, "the CPU backend cannot find its own directory");
        return nullptr;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *init = library ? dlsym(library, INFINIOP_BACKEND_INIT_SYMBOL) : nullptr;
    if (!init) {
        const char *reason = dlerror();
        fail(host, INFINI_STATUS_INTERNAL_ERROR, reason ? reason : "the CPU backend's library has no entry point");
        return nullptr;
    }
    return reinterpret_cast<infiniopBackendInit_t>(init)(host);
}
