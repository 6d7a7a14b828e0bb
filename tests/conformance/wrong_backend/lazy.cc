#include "lazy.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <set>

namespace wrong {
namespace {

using Status = infiniStatus_t;
constexpr Status ok = INFINI_STATUS_SUCCESS;

struct Stream {
    std::deque<std::function<void()>> tasks;
};

struct Event {
    Stream *stream = nullptr;
    std::shared_ptr<bool> passed = std::make_shared<bool>(true);
};

std::recursive_mutex device;
using Lock = std::lock_guard<std::recursive_mutex>;
Stream usual;
std::set<Stream *> streams{&usual};

Stream *stream_of(infinirtStream_t stream) { return stream ? static_cast<Stream *>(stream) : &usual; }

template <class Done> void work(Stream *stream, Done done) {
    while (!done() && !stream->tasks.empty()) {
        const auto task = std::move(stream->tasks.front());
        stream->tasks.pop_front();
        task();
    }
}

void drain(Stream *stream) {
    work(stream, [] { return false; });
}

Status device_count(int *count) { return *count = 1, ok; }

Status synchronize(int) {
    const Lock lock(device);
    for (Stream *stream : streams) {
        drain(stream);
    }
    return ok;
}

Status allocate(int, void **ptr, size_t size) {
    void *room = nullptr;
    if (posix_memalign(&room, 64, size ? size : 1)) {
        return INFINI_STATUS_INTERNAL_ERROR;
    }
    return *ptr = room, ok;
}

Status release(int id, void *ptr) {
    synchronize(id);
    return std::free(ptr), ok;
}

Status copy(int, void *dst, const void *src, size_t size, infinirtMemcpyKind_t) {
    const Lock lock(device);
    drain(&usual);
    return std::memmove(dst, src, size), ok;
}

Status copy_async(int, void *dst, const void *src, size_t size, infinirtMemcpyKind_t, infinirtStream_t stream) {
    return queue(stream, [=] { std::memmove(dst, src, size); }), ok;
}

Status set(int, void *ptr, int value, size_t count) {
    const Lock lock(device);
    drain(&usual);
    return std::memset(ptr, value, count), ok;
}

Status set_async(int, void *ptr, int value, size_t count, infinirtStream_t stream) {
    return queue(stream, [=] { std::memset(ptr, value, count); }), ok;
}

Status stream_create(int, infinirtStream_t *stream) {
    const Lock lock(device);
    return *stream = *streams.insert(new Stream).first, ok;
}

Status stream_destroy(infinirtStream_t stream) {
    const Lock lock(device);
    drain(stream_of(stream));
    streams.erase(stream_of(stream));
    return delete stream_of(stream), ok;
}

Status stream_synchronize(int, infinirtStream_t stream) {
    const Lock lock(device);
    return drain(stream_of(stream)), ok;
}

void reach(const Event &event) {
    const auto passed = event.passed;
    if (event.stream) {
        work(event.stream, [&] { return *passed; });
    }
}

Status stream_wait_event(int, infinirtStream_t stream, infinirtEvent_t event) {
    return queue(stream, [copy = *static_cast<Event *>(event)] { reach(copy); }), ok;
}

Status event_create(int, infinirtEvent_t *event, uint32_t) { return *event = new Event, ok; }

Status event_record(int, infinirtEvent_t event, infinirtStream_t stream) {
    auto passed = std::make_shared<bool>(false);
    *static_cast<Event *>(event) = {stream_of(stream), passed};
    return queue(stream, [=] { *passed = true; }), ok;
}

Status event_query(infinirtEvent_t event, infinirtEventStatus_t *status) {
    const Lock lock(device);
    *status = *static_cast<Event *>(event)->passed ? INFINIRT_EVENT_COMPLETE : INFINIRT_EVENT_NOT_READY;
    return ok;
}

Status event_synchronize(infinirtEvent_t event) {
    const Lock lock(device);
    return reach(*static_cast<Event *>(event)), ok;
}

Status event_elapsed(float *ms, infinirtEvent_t, infinirtEvent_t) { return *ms = 0.001f, ok; }
Status event_destroy(infinirtEvent_t event) { return delete static_cast<Event *>(event), ok; }

infinirtRuntime make() {
    infinirtRuntime table = {};
    table.struct_size = sizeof table;
    table.device_count = device_count;
    table.synchronize = synchronize;
    table.malloc = allocate;
    table.free = release;
    table.memcpy = copy;
    table.memcpy_async = copy_async;
    table.memset = set;
    table.memset_async = set_async;
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

void queue(infinirtStream_t stream, std::function<void()> task) {
    const Lock lock(device);
    stream_of(stream)->tasks.push_back(std::move(task));
}

const infinirtRuntime runtime = make();

} // namespace wrong
