#include "places.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>

#include <cstdio>
#include <cstring>
#include <map>

namespace emulator {
namespace {

struct Module {
    Range image = {}, statics = {};
    std::string file;
};

Module find() {
    static thread_local char mine = 0; // the loader allocates a thread's variables when one is touched
    asm volatile("" ::"r"(&mine) : "memory");
    Module module;
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *out) {
            Module found;
            found.image = {~uintptr_t(0), 0};
            size_t thread_local_bytes = 0;
            for (int i = 0; i < info->dlpi_phnum; i++) {
                const ElfW(Phdr) &part = info->dlpi_phdr[i];
                const uintptr_t at = info->dlpi_addr + part.p_vaddr;
                if (part.p_type == PT_LOAD) {
                    found.image.from = at < found.image.from ? at : found.image.from;
                    found.image.to = at + part.p_memsz > found.image.to ? at + part.p_memsz : found.image.to;
                } else if (part.p_type == PT_TLS) {
                    thread_local_bytes = part.p_memsz;
                }
            }
            if (!found.image.has(reinterpret_cast<uintptr_t>(&find))) {
                return 0;
            }
            found.statics.from = reinterpret_cast<uintptr_t>(info->dlpi_tls_data);
            found.statics.to = found.statics.from + thread_local_bytes;
            found.file = *info->dlpi_name ? info->dlpi_name : program_invocation_name;
            *static_cast<Module *>(out) = found;
            return 1;
        },
        &module);
    return module;
}

const Module &module() {
    static thread_local const Module found = find();
    return found;
}

} // namespace

Range image() { return module().image; }
Range statics() { return module().statics; }

uint32_t call_place(const void *caller) {
    static const Range all = image();
    const uintptr_t at = reinterpret_cast<uintptr_t>(caller) - 1; // within the call
    return all.has(at) ? uint32_t(at - all.from) : 0;
}

std::string describe(uint32_t place) {
    static std::map<uint32_t, std::string> known;
    std::string &text = known[place];
    if (!text.empty()) {
        return text;
    }
    char command[4096];
    snprintf(command, sizeof(command), "addr2line -Cfie '%s' 0x%x 2>/dev/null", module().file.c_str(), place);
    FILE *const pipe = popen(command, "r");
    std::string function, lines;
    char line[4096];
    for (bool name = true; pipe && fgets(line, sizeof(line), pipe); name = !name) {
        line[strcspn(line, "\n")] = 0;
        if (name) {
            function = line;
        } else {
            const char *const slash = strrchr(line, '/');
            lines += (lines.empty() ? "" : " < ") + std::string(slash ? slash + 1 : line);
        }
    }
    if (pipe) {
        pclose(pipe);
    }
    text = lines.empty() ? "place " + std::to_string(place) : function + ", " + lines;
    return text;
}

} // namespace emulator
