// Devices, streams, events and memory: infinirt as C++ objects.
#pragma once

#include <cstddef>
#include <memory>

#include "../../infinirt.h"
#include "error.hpp"

namespace infiniop {

struct Device {
    infiniDevice_t type = INFINI_DEVICE_CPU;
    int id = 0;

    friend bool operator==(const Device &a, const Device &b) noexcept { return a.type == b.type && a.id == b.id; }
    friend bool operator!=(const Device &a, const Device &b) noexcept { return !(a == b); }
};

// The calling thread's device; initially (cpu, 0).
inline Result<Device> current_device(nothrow_t) {
    Device device;
    const infiniStatus_t status = infinirtGetDevice(&device.type, &device.id);
    return detail::done(nothrow, status, device);
}
inline Device current_device() { return detail::value(current_device(nothrow)); }

inline Result<void> set_device(nothrow_t, Device device) {
    return detail::done(nothrow, infinirtSetDevice(device.type, device.id));
}
inline void set_device(Device device) { detail::value(set_device(nothrow, device)); }

// "nvidia" -> its number, whoever brought the device.
inline Result<infiniDevice_t> device_type(nothrow_t, const char *name) {
    infiniDevice_t type = INFINI_DEVICE_CPU;
    const infiniStatus_t status = infiniopGetDeviceByName(name, &type);
    return detail::done(nothrow, status, type);
}
inline infiniDevice_t device_type(const char *name) { return detail::value(device_type(nothrow, name)); }

inline Result<int> device_count(nothrow_t, infiniDevice_t type) {
    int count = 0;
    const infiniStatus_t status = infinirtGetDeviceCount(type, &count);
    return detail::done(nothrow, status, count);
}
inline int device_count(infiniDevice_t type) { return detail::value(device_count(nothrow, type)); }

// Until everything on the current device is done.
inline Result<void> synchronize(nothrow_t) { return detail::done(nothrow, infinirtDeviceSynchronize()); }
inline void synchronize() { detail::value(synchronize(nothrow)); }

namespace detail {

// Another device for the length of a scope.
class OnDevice {
public:
    explicit OnDevice(Device device) {
        changed_ = infinirtGetDevice(&before_.type, &before_.id) == success && before_ != device &&
                   infinirtSetDevice(device.type, device.id) == success;
    }
    ~OnDevice() {
        if (changed_) {
            infinirtSetDevice(before_.type, before_.id);
        }
    }
    OnDevice(const OnDevice &) = delete;
    OnDevice &operator=(const OnDevice &) = delete;

private:
    Device before_;
    bool changed_ = false;
};

template <auto Function> struct Destroy {
    template <class Object> void operator()(Object *object) const noexcept { static_cast<void>(Function(object)); }
};

} // namespace detail

class Event;

// Owns a stream of the device that was current when it was made.
class Stream {
public:
    Stream() : Stream(detail::value(create(nothrow))) {}
    static Result<Stream> create(nothrow_t) {
        infinirtStream_t stream = nullptr;
        const infiniStatus_t status = infinirtStreamCreate(&stream);
        return detail::done(nothrow, status, Stream(stream));
    }

    infinirtStream_t get() const noexcept { return stream_.get(); }

    Result<void> synchronize(nothrow_t) const { return detail::done(nothrow, infinirtStreamSynchronize(get())); }
    void synchronize() const { detail::value(synchronize(nothrow)); }

    // What follows on this stream waits for the event.
    Result<void> wait(nothrow_t, const Event &event) const;
    void wait(const Event &event) const { detail::value(wait(nothrow, event)); }

private:
    explicit Stream(infinirtStream_t stream) : stream_(stream) {}
    std::unique_ptr<void, detail::Destroy<infinirtStreamDestroy>> stream_;
};

// A stream argument: none (the device's default stream), a Stream, or explicitly a device's own stream.
class StreamRef {
public:
    constexpr StreamRef(std::nullptr_t = nullptr) noexcept {}
    StreamRef(const Stream &stream) noexcept : stream_(stream.get()) {}
    explicit constexpr StreamRef(infinirtStream_t stream) noexcept : stream_(stream) {}
    constexpr infinirtStream_t get() const noexcept { return stream_; }

private:
    infinirtStream_t stream_ = nullptr;
};

class Event {
public:
    explicit Event(infinirtEventFlags_t flags = INFINIRT_EVENT_DEFAULT)
        : Event(detail::value(create(nothrow, flags))) {}
    static Result<Event> create(nothrow_t, infinirtEventFlags_t flags = INFINIRT_EVENT_DEFAULT) {
        infinirtEvent_t event = nullptr;
        const infiniStatus_t status = infinirtEventCreateWithFlags(&event, static_cast<uint32_t>(flags));
        return detail::done(nothrow, status, Event(event));
    }

    infinirtEvent_t get() const noexcept { return event_.get(); }

    Result<void> record(nothrow_t, StreamRef stream) const {
        return detail::done(nothrow, infinirtEventRecord(get(), stream.get()));
    }
    void record(StreamRef stream = {}) const { detail::value(record(nothrow, stream)); }

    Result<void> synchronize(nothrow_t) const { return detail::done(nothrow, infinirtEventSynchronize(get())); }
    void synchronize() const { detail::value(synchronize(nothrow)); }

    // Whether what was recorded is done.
    Result<bool> query(nothrow_t) const {
        infinirtEventStatus_t state = INFINIRT_EVENT_NOT_READY;
        const infiniStatus_t status = infinirtEventQuery(get(), &state);
        return detail::done(nothrow, status, state == INFINIRT_EVENT_COMPLETE);
    }
    bool query() const { return detail::value(query(nothrow)); }

    // Milliseconds from `start` to this event.
    Result<float> since(nothrow_t, const Event &start) const {
        float ms = 0;
        const infiniStatus_t status = infinirtEventElapsedTime(&ms, start.get(), get());
        return detail::done(nothrow, status, ms);
    }
    float since(const Event &start) const { return detail::value(since(nothrow, start)); }

private:
    explicit Event(infinirtEvent_t event) : event_(event) {}
    std::unique_ptr<void, detail::Destroy<infinirtEventDestroy>> event_;
};

inline Result<void> Stream::wait(nothrow_t, const Event &event) const {
    return detail::done(nothrow, infinirtStreamWaitEvent(get(), event.get()));
}

// Bytes between any two places, in the order of the stream.
inline Result<void> copy(nothrow_t, void *to, const void *from, size_t bytes, infinirtMemcpyKind_t kind,
                         StreamRef stream = {}) {
    return detail::done(nothrow, infinirtMemcpyAsync(to, from, bytes, kind, stream.get()));
}
inline void copy(void *to, const void *from, size_t bytes, infinirtMemcpyKind_t kind, StreamRef stream = {}) {
    detail::value(copy(nothrow, to, from, bytes, kind, stream));
}

// Owns `size` elements of memory on the device that was current when it was made. Free it when its streams have passed.
template <class T = std::byte> class Memory {
public:
    Memory() = default;
    explicit Memory(size_t size) : Memory(detail::value(create(nothrow, size))) {}
    static Result<Memory> create(nothrow_t, size_t size) {
        Memory memory;
        void *data = nullptr;
        infiniStatus_t status =
            infinirtGetDevice(&memory.data_.get_deleter().device.type, &memory.data_.get_deleter().device.id);
        if (status == detail::success) {
            const bool fits = size <= static_cast<size_t>(-1) / sizeof(T);
            status = infinirtMalloc(&data, fits ? size * sizeof(T) : static_cast<size_t>(-1));
        }
        memory.data_.reset(static_cast<T *>(data));
        memory.size_ = size;
        return detail::done(nothrow, status, std::move(memory));
    }

    T *data() const noexcept { return data_.get(); }
    size_t size() const noexcept { return size_; }
    size_t bytes() const noexcept { return size_ * sizeof(T); }

    // All elements, from and to host memory; the host waits.
    Result<void> upload(nothrow_t, const T *from) const { return transfer(nothrow, data(), from, INFINIRT_MEMCPY_H2D); }
    void upload(const T *from) const { detail::value(upload(nothrow, from)); }
    Result<void> download(nothrow_t, T *to) const { return transfer(nothrow, to, data(), INFINIRT_MEMCPY_D2H); }
    void download(T *to) const { detail::value(download(nothrow, to)); }

private:
    struct Free {
        Device device;
        void operator()(T *data) const noexcept {
            const detail::OnDevice here(device);
            infinirtFree(data);
        }
    };
    Result<void> transfer(nothrow_t, void *to, const void *from, infinirtMemcpyKind_t kind) const {
        const detail::OnDevice here(data_.get_deleter().device);
        return detail::done(nothrow, infinirtMemcpy(to, from, bytes(), kind));
    }

    std::unique_ptr<T, Free> data_;
    size_t size_ = 0;
};

} // namespace infiniop
