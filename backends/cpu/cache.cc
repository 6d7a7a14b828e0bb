#include "cache.h"

#include <cstdio>
#include <cstdlib>

#include "cpu.h"

namespace infiniop::cpu {
namespace {

size_t find_cache_bytes() {
    const char *text = getenv("INFINIOP_CPU_CACHE_BYTES");
    if (text && *text) {
        char *end = nullptr;
        const long long bytes = strtoll(text, &end, 10);
        if (*end == '\0' && bytes > 0) {
            return size_t(bytes);
        }
        host->log(INFINIOP_LOG_WARNING,
                  Text("INFINIOP_CPU_CACHE_BYTES=%.40s is ignored: expected a number of bytes above 0", text));
    }
    return largest_cache();
}

} // namespace

// sysconf multiplies by the sockets that a virtual machine claims to have.
size_t largest_cache(const std::string &root) {
    size_t largest = 0;
    for (int i = 0; i < 16; i++) {
        const Text name("/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        FILE *file = fopen((root + name.s).c_str(), "re");
        if (!file) {
            break;
        }
        size_t size = 0;
        char unit = 0;
        if (fscanf(file, "%zu%c", &size, &unit) >= 1) {
            size <<= unit == 'K' ? 10 : unit == 'M' ? 20 : 0;
            largest = size > largest ? size : largest;
        }
        fclose(file);
    }
    return largest;
}

size_t cache_bytes() {
    static const size_t bytes = find_cache_bytes();
    return bytes;
}

} // namespace infiniop::cpu
