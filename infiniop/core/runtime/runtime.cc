// Memory, streams and events: checks once for all devices, then the device's own runtime.
#include <cstdlib>

#include "graph.hpp"
#include "streams.hpp"

namespace infini {

Owned &streams() {
    static Owned *const forever = new Owned;
    return *forever;
}

Owned &events() {
    static Owned *const forever = new Owned;
    return *forever;
}

infiniStatus_t stream_device(const char *op, infinirtStream_t stream, Device *device) {
    if (const std::optional<Device> known = stream ? streams().find(stream) : std::nullopt) {
        *device = *known;
        return INFINI_STATUS_SUCCESS;
    }
    return current_device(op, device);
}

namespace {

// Call the current device's (the stream's) runtime.
template <class Call> infiniStatus_t on_current(const char *op, Call &&call) {
    Device device;
    const infiniStatus_t status = current_device(op, &device);
    return status == INFINI_STATUS_SUCCESS ? on(device, op, call) : status;
}

template <class Call> infiniStatus_t on_stream(const char *op, infinirtStream_t stream, Call &&call) {
    Device device;
    const infiniStatus_t status = stream_device(op, stream, &device);
    return status == INFINI_STATUS_SUCCESS ? on(device, op, call) : status;
}

infiniStatus_t refused_in_capture(const char *op) {
    return fail(INFINI_STATUS_BAD_PARAM, op, "stream", "one that is not capturing",
                "a capturing one: memory and synchronisation cannot be captured");
}

infiniStatus_t event_device(const char *op, const char *argument, infinirtEvent_t event, Device *device) {
    if (!event) {
        return fail_null(op, argument);
    }
    const std::optional<Device> known = events().find(event);
    if (!known) {
        return fail(INFINI_STATUS_BAD_PARAM, op, argument, "an event that infinirt created and nobody destroyed",
                    "something else");
    }
    *device = *known;
    return INFINI_STATUS_SUCCESS;
}

template <class Call> infiniStatus_t on_event(const char *op, infinirtEvent_t event, Call &&call) {
    Device device;
    const infiniStatus_t status = event_device(op, "event", event, &device);
    return status == INFINI_STATUS_SUCCESS ? on(device, op, call) : status;
}

// Allocate through `call`; nothing for a size of 0, and NULL is a failure whatever the runtime says.
template <class Call> infiniStatus_t allocate(const char *op, void **p_ptr, size_t size, Call &&call) {
    void *memory = nullptr;
    const infiniStatus_t status = size ? call(&memory) : INFINI_STATUS_SUCCESS;
    if (status != INFINI_STATUS_SUCCESS) {
        return status;
    }
    if (size && !memory) {
        return fail(INFINI_STATUS_INTERNAL_ERROR, op, "no memory for " + std::to_string(size) + " bytes");
    }
    *p_ptr = memory;
    return INFINI_STATUS_SUCCESS;
}

infiniStatus_t check_copy(const char *op, const void *dst, const void *src, size_t size,
                          const infinirtMemcpyKind_t &kind) {
    if (raw(kind) < INFINIRT_MEMCPY_H2H || raw(kind) > INFINIRT_MEMCPY_D2D) {
        return fail(INFINI_STATUS_BAD_PARAM, op, "kind", "0, 1, 2 or 3", std::to_string(raw(kind)));
    }
    return size && (!dst || !src) ? fail_null(op, dst ? "src" : "dst") : INFINI_STATUS_SUCCESS;
}

// Make the call, or keep it when the stream is capturing.
template <class Call> infiniStatus_t run_or_capture(const char *op, infinirtStream_t stream, Call call) {
    Device device;
    if (const infiniStatus_t status = stream_device(op, stream, &device)) {
        return status;
    }
    const auto node = [=](infinirtStream_t where) {
        return on(device, op, [&](const infinirtRuntime &r, int id) { return call(r, id, where); });
    };
    return is_capturing(stream) ? capture(op, stream, node) : node(stream);
}

infiniStatus_t event_create(const char *op, infinirtEvent_t *event_ptr, uint32_t flags) {
    if (!event_ptr) {
        return fail_null(op, "event_ptr");
    }
    Device device;
    if (const infiniStatus_t status = current_device(op, &device)) {
        return status;
    }
    infinirtEvent_t event = nullptr;
    const infiniStatus_t status =
        on(device, op, [&](const infinirtRuntime &r, int id) { return r.event_create(id, &event, flags); });
    if (status == INFINI_STATUS_SUCCESS) {
        events().add(event, device);
        *event_ptr = event;
    }
    return status;
}

// A graph may outlive the events that it names: its launch then fails.
template <class Node> auto while_it_lives(const char *op, infinirtEvent_t event, Node node) {
    return [=](infinirtStream_t where) {
        Device known;
        const infiniStatus_t status = event_device(op, "event", event, &known);
        return status == INFINI_STATUS_SUCCESS ? node(where) : status;
    };
}

// Between backends there is no common order on a device: the host waits.
infiniStatus_t wait_for_event(const Device &device, const Device &of_event, infinirtStream_t stream,
                              infinirtEvent_t event) {
    constexpr const char *op = "infinirtStreamWaitEvent";
    if (device.backend != of_event.backend) {
        return on(of_event, op, [&](const infinirtRuntime &r, int) { return r.event_synchronize(event); });
    }
    return on(device, op, [&](const infinirtRuntime &r, int id) { return r.stream_wait_event(id, stream, event); });
}

} // namespace
} // namespace infini

using namespace infini;

infiniStatus_t infinirtDeviceSynchronize() {
    return guarded(__func__, [] {
        constexpr const char *op = "infinirtDeviceSynchronize";
        Device device;
        if (const infiniStatus_t status = current_device(op, &device)) {
            return status;
        }
        if (captures_here(device)) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "this thread is capturing on " + describe(device));
        }
        return on(device, op, [](const infinirtRuntime &r, int id) { return r.synchronize(id); });
    });
}

infiniStatus_t infinirtStreamCreate(infinirtStream_t *stream_ptr) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtStreamCreate";
        if (!stream_ptr) {
            return fail_null(op, "stream_ptr");
        }
        Device device;
        if (const infiniStatus_t status = current_device(op, &device)) {
            return status;
        }
        infinirtStream_t stream = nullptr;
        const infiniStatus_t status =
            on(device, op, [&](const infinirtRuntime &r, int id) { return r.stream_create(id, &stream); });
        if (status == INFINI_STATUS_SUCCESS) {
            if (stream) {
                streams().add(stream, device);
            }
            *stream_ptr = stream;
        }
        return status;
    });
}

infiniStatus_t infinirtStreamDestroy(infinirtStream_t stream) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtStreamDestroy";
        if (!stream) {
            return INFINI_STATUS_SUCCESS;
        }
        const std::optional<Device> device = streams().find(stream);
        if (!device) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "stream", "a stream that infinirt created and nobody destroyed",
                        "something else");
        }
        if (is_capturing(stream)) {
            return refused_in_capture(op);
        }
        streams().remove(stream);
        return on(*device, op, [&](const infinirtRuntime &r, int) { return r.stream_destroy(stream); });
    });
}

infiniStatus_t infinirtStreamSynchronize(infinirtStream_t stream) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtStreamSynchronize";
        if (is_capturing(stream)) {
            return refused_in_capture(op);
        }
        return on_stream(op, stream,
                         [&](const infinirtRuntime &r, int id) { return r.stream_synchronize(id, stream); });
    });
}

infiniStatus_t infinirtStreamWaitEvent(infinirtStream_t stream, infinirtEvent_t event) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtStreamWaitEvent";
        Device device, of_event;
        if (const infiniStatus_t status = event_device(op, "event", event, &of_event)) {
            return status;
        }
        if (const infiniStatus_t status = stream_device(op, stream, &device)) {
            return status;
        }
        join_capture(stream, event, device);
        const auto node = [=](infinirtStream_t where) { return wait_for_event(device, of_event, where, event); };
        return is_capturing(stream) ? capture(op, stream, while_it_lives(op, event, node)) : node(stream);
    });
}

infiniStatus_t infinirtEventCreate(infinirtEvent_t *event_ptr) {
    return guarded(__func__, [&] { return event_create("infinirtEventCreate", event_ptr, INFINIRT_EVENT_DEFAULT); });
}

infiniStatus_t infinirtEventCreateWithFlags(infinirtEvent_t *event_ptr, uint32_t flags) {
    constexpr uint32_t known = INFINIRT_EVENT_DISABLE_TIMING | INFINIRT_EVENT_BLOCKING_SYNC;
    return guarded(__func__, [&] { return event_create("infinirtEventCreateWithFlags", event_ptr, flags & known); });
}

infiniStatus_t infinirtEventRecord(infinirtEvent_t event, infinirtStream_t stream) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtEventRecord";
        Device device, of_event;
        if (const infiniStatus_t status = event_device(op, "event", event, &of_event)) {
            return status;
        }
        if (stream) {
            if (const infiniStatus_t status = stream_device(op, stream, &device)) {
                return status;
            }
            if (device != of_event) {
                return fail(INFINI_STATUS_BAD_PARAM, op, "stream",
                            "a stream of the event's device " + describe(of_event), "a stream of " + describe(device));
            }
        }
        const auto node = [=](infinirtStream_t where) {
            return on(of_event, op, [&](const infinirtRuntime &r, int id) { return r.event_record(id, event, where); });
        };
        if (!is_capturing(stream)) {
            return node(stream);
        }
        captured_event(stream, event);
        return capture(op, stream, while_it_lives(op, event, node));
    });
}

infiniStatus_t infinirtEventQuery(infinirtEvent_t event, infinirtEventStatus_t *status_ptr) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtEventQuery";
        if (!status_ptr) {
            return fail_null(op, "status_ptr");
        }
        infinirtEventStatus_t found = INFINIRT_EVENT_NOT_READY;
        const infiniStatus_t status =
            on_event(op, event, [&](const infinirtRuntime &r, int) { return r.event_query(event, &found); });
        if (status == INFINI_STATUS_SUCCESS) {
            *status_ptr = found;
        }
        return status;
    });
}

infiniStatus_t infinirtEventSynchronize(infinirtEvent_t event) {
    return guarded(__func__, [&] {
        return on_event("infinirtEventSynchronize", event,
                        [&](const infinirtRuntime &r, int) { return r.event_synchronize(event); });
    });
}

infiniStatus_t infinirtEventDestroy(infinirtEvent_t event) {
    return guarded(__func__, [&] {
        if (!event) {
            return INFINI_STATUS_SUCCESS;
        }
        return on_event("infinirtEventDestroy", event, [&](const infinirtRuntime &r, int) {
            events().remove(event);
            return r.event_destroy(event);
        });
    });
}

infiniStatus_t infinirtEventElapsedTime(float *ms_ptr, infinirtEvent_t start, infinirtEvent_t end) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtEventElapsedTime";
        if (!ms_ptr) {
            return fail_null(op, "ms_ptr");
        }
        Device first, second;
        if (const infiniStatus_t status = event_device(op, "start", start, &first)) {
            return status;
        }
        if (const infiniStatus_t status = event_device(op, "end", end, &second)) {
            return status;
        }
        if (first != second) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "end", "an event of " + describe(first),
                        "an event of " + describe(second));
        }
        float ms = 0;
        const infiniStatus_t status =
            on(first, op, [&](const infinirtRuntime &r, int) { return r.event_elapsed(&ms, start, end); });
        if (status == INFINI_STATUS_SUCCESS) {
            *ms_ptr = ms;
        }
        return status;
    });
}

infiniStatus_t infinirtMalloc(void **p_ptr, size_t size) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtMalloc";
        if (!p_ptr) {
            return fail_null(op, "p_ptr");
        }
        return allocate(op, p_ptr, size, [&](void **memory) {
            return on_current(op, [&](const infinirtRuntime &r, int id) { return r.malloc(id, memory, size); });
        });
    });
}

infiniStatus_t infinirtMallocHost(void **p_ptr, size_t size) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtMallocHost";
        if (!p_ptr) {
            return fail_null(op, "p_ptr");
        }
        return allocate(op, p_ptr, size, [&](void **memory) {
            return on_current(op, [&](const infinirtRuntime &r, int id) {
                if (r.malloc_host) {
                    return r.malloc_host(id, memory, size);
                }
                *memory = std::malloc(size);
                return INFINI_STATUS_SUCCESS;
            });
        });
    });
}

infiniStatus_t infinirtFree(void *ptr) {
    return guarded(__func__, [&] {
        if (!ptr) {
            return INFINI_STATUS_SUCCESS;
        }
        return on_current("infinirtFree", [&](const infinirtRuntime &r, int id) { return r.free(id, ptr); });
    });
}

infiniStatus_t infinirtFreeHost(void *ptr) {
    return guarded(__func__, [&] {
        if (!ptr) {
            return INFINI_STATUS_SUCCESS;
        }
        return on_current("infinirtFreeHost", [&](const infinirtRuntime &r, int id) {
            if (r.free_host) {
                return r.free_host(id, ptr);
            }
            std::free(ptr);
            return INFINI_STATUS_SUCCESS;
        });
    });
}

infiniStatus_t infinirtMemcpy(void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtMemcpy";
        const infiniStatus_t status = check_copy(op, dst, src, size, kind);
        if (status != INFINI_STATUS_SUCCESS || size == 0) {
            return status;
        }
        return on_current(op, [&](const infinirtRuntime &r, int id) { return r.memcpy(id, dst, src, size, kind); });
    });
}

infiniStatus_t infinirtMemcpyAsync(void *dst, const void *src, size_t size, infinirtMemcpyKind_t kind,
                                   infinirtStream_t stream) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtMemcpyAsync";
        const infiniStatus_t status = check_copy(op, dst, src, size, kind);
        if (status != INFINI_STATUS_SUCCESS || size == 0) {
            return status;
        }
        return run_or_capture(op, stream, [=](const infinirtRuntime &r, int id, infinirtStream_t where) {
            return r.memcpy_async(id, dst, src, size, kind, where);
        });
    });
}

infiniStatus_t infinirtMallocAsync(void **p_ptr, size_t size, infinirtStream_t stream) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtMallocAsync";
        if (!p_ptr) {
            return fail_null(op, "p_ptr");
        }
        if (is_capturing(stream)) {
            return refused_in_capture(op);
        }
        return allocate(op, p_ptr, size, [&](void **memory) {
            return on_stream(op, stream, [&](const infinirtRuntime &r, int id) {
                return r.malloc_async ? r.malloc_async(id, memory, size, stream) : r.malloc(id, memory, size);
            });
        });
    });
}

infiniStatus_t infinirtFreeAsync(void *ptr, infinirtStream_t stream) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtFreeAsync";
        if (is_capturing(stream)) {
            return refused_in_capture(op);
        }
        if (!ptr) {
            return INFINI_STATUS_SUCCESS;
        }
        return on_stream(op, stream, [&](const infinirtRuntime &r, int id) {
            if (r.free_async) {
                return r.free_async(id, ptr, stream);
            }
            const infiniStatus_t status = r.stream_synchronize(id, stream);
            return raw(status) == INFINI_STATUS_SUCCESS ? r.free(id, ptr) : status;
        });
    });
}

infiniStatus_t infinirtMemset(void *ptr, int value, size_t count) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtMemset";
        if (!ptr || count == 0) {
            return count ? fail_null(op, "ptr") : INFINI_STATUS_SUCCESS;
        }
        return on_current(op, [&](const infinirtRuntime &r, int id) { return r.memset(id, ptr, value, count); });
    });
}

infiniStatus_t infinirtMemsetAsync(void *ptr, int value, size_t count, infinirtStream_t stream) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtMemsetAsync";
        if (!ptr || count == 0) {
            return count ? fail_null(op, "ptr") : INFINI_STATUS_SUCCESS;
        }
        return run_or_capture(op, stream, [=](const infinirtRuntime &r, int id, infinirtStream_t where) {
            return r.memset_async(id, ptr, value, count, where);
        });
    });
}
