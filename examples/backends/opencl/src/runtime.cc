// The runtime table: memory, copies, streams and events. Streams are in-order command queues; the core's graphs record
// and replay on them.
#include <cstring>

#include "device.h"

namespace opencl {
namespace {

// A mark in a queue. Recording it again moves it.
struct Mark {
    Device *device;
    std::mutex mutex;
    cl_event event = nullptr; // none: never recorded, which counts as passed

    cl_event get() { // retained
        const std::lock_guard lock(mutex);
        if (event) {
            clRetainEvent(event);
        }
        return event;
    }
    void set(cl_event next) {
        const std::lock_guard lock(mutex);
        std::swap(event, next);
        if (next) {
            clReleaseEvent(next);
        }
    }
};

// Keeps the event of a mark for a while.
struct Held {
    cl_event event;
    explicit Held(infinirtEvent_t mark) : event(static_cast<Mark *>(mark)->get()) {}
    ~Held() {
        if (event) {
            clReleaseEvent(event);
        }
    }
};

Status device_count(int *count) {
    return guarded("device_count", [&] { *count = int(devices().size()); });
}

Status synchronize(int id) {
    return guarded("synchronize", [&] { device_at(id).finish(); });
}

Status mem_info(int id, size_t *free_bytes, size_t *total_bytes) {
    return guarded("mem_info", [&] { std::tie(*free_bytes, *total_bytes) = device_at(id).free_and_total(); });
}

// ---- memory

Status allocate(int id, void **ptr, size_t size) {
    return guarded("malloc", [&] { *ptr = device_at(id).allocate(size); });
}

Status release(int id, void *ptr) {
    return guarded("free", [&] { device_at(id).free(ptr); });
}

// New memory has no history: the order of a stream asks nothing more of it.
Status allocate_async(int id, void **ptr, size_t size, infinirtStream_t) { return allocate(id, ptr, size); }

Status release_async(int id, void *ptr, infinirtStream_t stream) {
    return guarded("free_async", [&] {
        Device &device = device_at(id);
        device.free_on(ptr, device.queue(stream));
    });
}

bool to_host(infinirtMemcpyKind_t kind) { return kind == INFINIRT_MEMCPY_H2H || kind == INFINIRT_MEMCPY_D2H; }
bool of_host(infinirtMemcpyKind_t kind) { return kind == INFINIRT_MEMCPY_H2H || kind == INFINIRT_MEMCPY_H2D; }

void copy_on(Device &device, cl_command_queue queue, cl_bool wait, void *dst, const void *src, size_t size,
             infinirtMemcpyKind_t kind) {
    if (!to_host(kind)) {
        device.require(dst, size, "dst");
        dst = to_device(dst);
    }
    if (!of_host(kind)) {
        device.require(src, size, "src");
        src = to_device(src);
    }
    check(clEnqueueSVMMemcpy(queue, wait, dst, src, size, 0, nullptr, nullptr), "clEnqueueSVMMemcpy");
}

// Without a stream, a copy comes after everything that the device was given before, on whatever stream.
Status copy(int id, void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind) {
    return guarded("memcpy", [&] {
        Device &device = device_at(id);
        if (kind == INFINIRT_MEMCPY_H2H) {
            std::memmove(dst, src, size);
            return;
        }
        device.finish();
        copy_on(device, device.queue(nullptr), CL_TRUE, dst, src, size, kind);
    });
}

Status copy_async(int id, void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind, infinirtStream_t stream) {
    return guarded("memcpy_async", [&] {
        Device &device = device_at(id);
        copy_on(device, device.queue(stream), CL_FALSE, dst, src, size, kind);
    });
}

void fill_on(Device &device, cl_command_queue queue, void *ptr, int value, size_t count) {
    device.require(ptr, count, "ptr");
    const unsigned char byte = static_cast<unsigned char>(value);
    check(clEnqueueSVMMemFill(queue, to_device(ptr), &byte, 1, count, 0, nullptr, nullptr), "clEnqueueSVMMemFill");
}

Status fill(int id, void *ptr, int value, size_t count) {
    return guarded("memset", [&] {
        Device &device = device_at(id);
        device.finish();
        fill_on(device, device.queue(nullptr), ptr, value, count);
        check(clFinish(device.queue(nullptr)), "clFinish");
    });
}

Status fill_async(int id, void *ptr, int value, size_t count, infinirtStream_t stream) {
    return guarded("memset_async", [&] {
        Device &device = device_at(id);
        fill_on(device, device.queue(stream), ptr, value, count);
    });
}

// ---- streams

Status stream_create(int id, infinirtStream_t *stream) {
    return guarded("stream_create", [&] { *stream = device_at(id).create_stream(); });
}

Status stream_destroy(infinirtStream_t stream) {
    return guarded("stream_destroy", [&] {
        Stream *const ours = static_cast<Stream *>(stream);
        ours->device->destroy_stream(ours);
    });
}

Status stream_synchronize(int id, infinirtStream_t stream) {
    return guarded("stream_synchronize", [&] { check(clFinish(device_at(id).queue(stream)), "clFinish"); });
}

Status stream_wait_event(int id, infinirtStream_t stream, infinirtEvent_t event) {
    return guarded("stream_wait_event", [&] {
        const Held held(event);
        if (!held.event) {
            return;
        }
        Device &device = device_at(id);
        if (static_cast<Mark *>(event)->device != &device) { // contexts share no events: the host waits
            check(clWaitForEvents(1, &held.event), "clWaitForEvents");
            return;
        }
        check(clEnqueueBarrierWithWaitList(device.queue(stream), 1, &held.event, nullptr),
              "clEnqueueBarrierWithWaitList");
    });
}

// ---- events

Status event_create(int id, infinirtEvent_t *event, uint32_t) {
    return guarded("event_create", [&] {
        Mark *const mark = new Mark;
        mark->device = &device_at(id);
        *event = mark;
    });
}

Status event_record(int id, infinirtEvent_t event, infinirtStream_t stream) {
    return guarded("event_record", [&] {
        const cl_command_queue queue = device_at(id).queue(stream);
        cl_event next = nullptr;
        check(clEnqueueMarkerWithWaitList(queue, 0, nullptr, &next), "clEnqueueMarkerWithWaitList");
        static_cast<Mark *>(event)->set(next);
        check(clFlush(queue), "clFlush"); // whoever waits for it need not know the queue
    });
}

cl_int execution_status(cl_event event) {
    cl_int status = CL_COMPLETE;
    check(clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, nullptr), "clGetEventInfo");
    if (status < 0) {
        check(status, "a command on the stream");
    }
    return status;
}

Status event_query(infinirtEvent_t event, infinirtEventStatus_t *status) {
    return guarded("event_query", [&] {
        const Held held(event);
        const bool passed = !held.event || execution_status(held.event) == CL_COMPLETE;
        *status = passed ? INFINIRT_EVENT_COMPLETE : INFINIRT_EVENT_NOT_READY;
    });
}

Status event_synchronize(infinirtEvent_t event) {
    return guarded("event_synchronize", [&] {
        const Held held(event);
        if (held.event) {
            check(clWaitForEvents(1, &held.event), "clWaitForEvents");
        }
    });
}

// When the marked place was passed, in nanoseconds of the device's clock.
cl_ulong time_of(const Held &held, const char *argument) {
    if (!held.event) {
        refuse(INFINI_STATUS_BAD_PARAM, argument, "an event that was recorded", "one that was not");
    }
    check(clWaitForEvents(1, &held.event), "clWaitForEvents");
    cl_ulong time = 0;
    check(clGetEventProfilingInfo(held.event, CL_PROFILING_COMMAND_END, sizeof time, &time, nullptr),
          "clGetEventProfilingInfo");
    return time;
}

Status event_elapsed(float *ms, infinirtEvent_t start, infinirtEvent_t end) {
    return guarded("event_elapsed", [&] {
        const cl_ulong first = time_of(Held(start), "start"), last = time_of(Held(end), "end");
        *ms = float((double(last) - double(first)) * 1e-6);
    });
}

Status event_destroy(infinirtEvent_t event) {
    return guarded("event_destroy", [&] {
        Mark *const mark = static_cast<Mark *>(event);
        mark->set(nullptr);
        delete mark;
    });
}

infinirtRuntime make_runtime() {
    infinirtRuntime table = {};
    table.struct_size = sizeof table;
    table.device_count = device_count;
    table.synchronize = synchronize;
    table.mem_info = mem_info;
    table.malloc = allocate;
    table.free = release;
    table.malloc_async = allocate_async;
    table.free_async = release_async;
    table.memcpy = copy;
    table.memcpy_async = copy_async;
    table.memset = fill;
    table.memset_async = fill_async;
    table.stream_create = stream_create;
    table.stream_destroy = stream_destroy;
    table.stream_synchronize = stream_synchronize;
    table.stream_wait_event = stream_wait_event;
    table.event_create = event_create;
    table.event_record = event_record;
    table.event_query = event_query;
    table.event_synchronize = event_synchronize;
    table.event_elapsed = event_elapsed;
    table.event_destroy = event_destroy;
    return table;
}

} // namespace

const infinirtRuntime runtime = make_runtime();

} // namespace opencl
