#include "runtime.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <new>

#include <sys/mman.h>

#include "cgroup.h"
#include "cpu.h"

namespace infiniop::cpu {
namespace {

constexpr size_t memory_alignment = 64;
constexpr size_t huge_page = size_t{2} << 20;

struct Stream {
    int device_id;
};

struct Event {
    std::atomic<int64_t> ns; // when it was created or last recorded
};

int64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

Status null_pointer(const char *argument) {
    return fail(INFINI_STATUS_NULL_POINTER, nullptr, argument, "a pointer", "NULL");
}

Status out_of_memory(size_t size) {
    return fail(INFINI_STATUS_INTERNAL_ERROR, nullptr, "size", "memory that is available", Text("%zu bytes", size));
}

// ---- device ---------------------------------------------------------------------------------------------------

Status device_count(int *count) {
    *count = 1;
    return INFINI_STATUS_SUCCESS;
}

Status synchronize(int) { return INFINI_STATUS_SUCCESS; }

// The number behind `key` in a file of "key value" lines (or the first number, without a key); false: not there.
bool read_number(const char *path, const char *key, uint64_t &value) {
    FILE *file = fopen(path, "re");
    if (!file) {
        return false;
    }
    char line[256];
    bool found = false;
    const size_t length = key ? strlen(key) : 0;
    while (!found && fgets(line, sizeof(line), file)) {
        if (!key || strncmp(line, key, length) == 0) {
            char *end = nullptr;
            value = strtoull(line + length, &end, 10);
            found = end != line + length;
            if (!key) {
                break;
            }
        }
    }
    fclose(file);
    return found;
}

// A container may use less than the machine has; page cache that it can drop counts as free.
void apply_cgroup(uint64_t &available, uint64_t &total) {
    const Cgroup cgroup = find_cgroup("memory");
    const bool v2 = cgroup.version == 2;
    for (const std::string &folder : cgroup.folders) {
        const auto read = [&](const char *file, const char *key, uint64_t &value) {
            return read_number((folder + file).c_str(), key, value);
        };
        uint64_t limit, used, cache = 0;
        if (!read(v2 ? "/memory.max" : "/memory.limit_in_bytes", nullptr, limit) ||
            !read(v2 ? "/memory.current" : "/memory.usage_in_bytes", nullptr, used)) {
            continue; // no limit here
        }
        read("/memory.stat", v2 ? "inactive_file " : "total_inactive_file ", cache);
        used -= cache < used ? cache : used;
        const uint64_t left = limit > used ? limit - used : 0;
        total = limit < total ? limit : total;
        available = left < available ? left : available;
    }
}

Status mem_info(int, size_t *free_bytes, size_t *total_bytes) {
    uint64_t available, total;
    if (!read_number("/proc/meminfo", "MemAvailable:", available) ||
        !read_number("/proc/meminfo", "MemTotal:", total)) {
        return fail(INFINI_STATUS_INTERNAL_ERROR, nullptr, nullptr, "/proc/meminfo", "an unreadable one");
    }
    available *= 1024;
    total *= 1024;
    apply_cgroup(available, total);
    *free_bytes = available;
    *total_bytes = total;
    return INFINI_STATUS_SUCCESS;
}

// ---- memory ---------------------------------------------------------------------------------------------------

// What is large comes in huge pages, where the system has them: weights stream up to twice as fast.
Status device_malloc(int, void **ptr, size_t size) {
    const bool large = size >= 2 * huge_page;
    void *memory = nullptr;
    if (size > 0 && posix_memalign(&memory, large ? huge_page : memory_alignment, size) != 0) {
        return out_of_memory(size);
    }
    if (large) {
        madvise(memory, size / huge_page * huge_page, MADV_HUGEPAGE);
    }
    *ptr = memory;
    return INFINI_STATUS_SUCCESS;
}

Status device_free(int, void *ptr) {
    free(ptr);
    return INFINI_STATUS_SUCCESS;
}

Status malloc_async(int device_id, void **ptr, size_t size, infinirtStream_t) {
    return device_malloc(device_id, ptr, size);
}

Status free_async(int device_id, void *ptr, infinirtStream_t) { return device_free(device_id, ptr); }

Status copy(int, void *dst, const void *src, size_t size, infinirtMemcpyKind_t) {
    if (size == 0) {
        return INFINI_STATUS_SUCCESS;
    }
    if (!dst || !src) {
        return null_pointer(dst ? "src" : "dst");
    }
    memmove(dst, src, size);
    return INFINI_STATUS_SUCCESS;
}

Status copy_async(int device_id, void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind, infinirtStream_t) {
    return copy(device_id, dst, src, size, kind);
}

Status set(int, void *ptr, int value, size_t count) {
    if (count == 0) {
        return INFINI_STATUS_SUCCESS;
    }
    if (!ptr) {
        return null_pointer("ptr");
    }
    memset(ptr, value, count);
    return INFINI_STATUS_SUCCESS;
}

Status set_async(int device_id, void *ptr, int value, size_t count, infinirtStream_t) {
    return set(device_id, ptr, value, count);
}

// ---- streams and events ---------------------------------------------------------------------------------------

Status stream_create(int device_id, infinirtStream_t *stream) {
    Stream *created = new (std::nothrow) Stream{device_id};
    if (!created) {
        return out_of_memory(sizeof(Stream));
    }
    *stream = created;
    return INFINI_STATUS_SUCCESS;
}

Status stream_destroy(infinirtStream_t stream) {
    delete static_cast<Stream *>(stream);
    return INFINI_STATUS_SUCCESS;
}

Status stream_synchronize(int, infinirtStream_t) { return INFINI_STATUS_SUCCESS; }

Status stream_wait_event(int, infinirtStream_t, infinirtEvent_t event) {
    return event ? INFINI_STATUS_SUCCESS : null_pointer("event");
}

Status event_create(int, infinirtEvent_t *event, uint32_t) {
    Event *created = new (std::nothrow) Event{{now_ns()}};
    if (!created) {
        return out_of_memory(sizeof(Event));
    }
    *event = created;
    return INFINI_STATUS_SUCCESS;
}

Status event_record(int, infinirtEvent_t event, infinirtStream_t) {
    if (!event) {
        return null_pointer("event");
    }
    static_cast<Event *>(event)->ns = now_ns();
    return INFINI_STATUS_SUCCESS;
}

Status event_query(infinirtEvent_t event, infinirtEventStatus_t *status) {
    if (!event) {
        return null_pointer("event");
    }
    *status = INFINIRT_EVENT_COMPLETE;
    return INFINI_STATUS_SUCCESS;
}

Status event_synchronize(infinirtEvent_t event) { return event ? INFINI_STATUS_SUCCESS : null_pointer("event"); }

Status event_elapsed(float *ms, infinirtEvent_t start, infinirtEvent_t end) {
    if (!start || !end) {
        return null_pointer(start ? "end" : "start");
    }
    *ms = float(double(static_cast<Event *>(end)->ns - static_cast<Event *>(start)->ns) / 1e6);
    return INFINI_STATUS_SUCCESS;
}

Status event_destroy(infinirtEvent_t event) {
    delete static_cast<Event *>(event);
    return INFINI_STATUS_SUCCESS;
}

constexpr infinirtRuntime make_runtime() {
    infinirtRuntime r = {};
    r.struct_size = sizeof(r);
    r.device_count = device_count;
    r.synchronize = synchronize;
    r.mem_info = mem_info;
    r.malloc = device_malloc;
    r.free = device_free;
    r.malloc_async = malloc_async;
    r.free_async = free_async;
    r.memcpy = copy;
    r.memcpy_async = copy_async;
    r.memset = set;
    r.memset_async = set_async;
    r.stream_create = stream_create;
    r.stream_destroy = stream_destroy;
    r.stream_synchronize = stream_synchronize;
    r.stream_wait_event = stream_wait_event;
    r.event_create = event_create;
    r.event_record = event_record;
    r.event_query = event_query;
    r.event_synchronize = event_synchronize;
    r.event_elapsed = event_elapsed;
    r.event_destroy = event_destroy;
    return r;
}

} // namespace

constexpr infinirtRuntime constant = make_runtime();
const infinirtRuntime runtime = constant;

} // namespace infiniop::cpu
