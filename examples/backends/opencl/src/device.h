// OpenCL devices, their contexts, queues and programs; errors of OpenCL as exceptions that the table turns into
// statuses.
#pragma once

#define CL_TARGET_OPENCL_VERSION 200
#include <CL/cl.h>

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <infiniop/backend.h>

namespace opencl {

extern const infiniopHost *host;

using Status = infiniStatus_t;

// What is thrown inside and leaves through `guarded` as a status and a message.
struct Error {
    Status status;
    std::string argument, expected, got, message;
};

[[noreturn]] void refuse(Status status, std::string argument, std::string expected, std::string got);
void check(cl_int code, const char *call);

// Runs `body`; nothing it throws gets any further.
Status report(const Error &error, const char *op);
Status report_unknown(const char *op);
template <class Body> Status guarded(const char *op, Body &&body) {
    try {
        body();
        return INFINI_STATUS_SUCCESS;
    } catch (const Error &error) {
        return report(error, op);
    } catch (...) {
        return report_unknown(op);
    }
}

// Addresses that infinirt gives out lie this far from those of OpenCL's shared virtual memory: `pointer + offset`
// holds, and a host that reads device memory faults at once, also where a device's memory happens to be the host's.
constexpr uintptr_t distance = uintptr_t(1) << 50;
inline void *to_device(void *address) {
    return reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(address) - distance);
}
inline const void *to_device(const void *address) { return to_device(const_cast<void *>(address)); }
inline void *from_device(void *address) {
    return reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(address) + distance);
}

class Device;

struct Stream {
    Device *device;
    cl_command_queue queue;
};

class Device {
public:
    Device(cl_platform_id platform, cl_device_id id);

    cl_device_id id() const { return id_; }
    bool has_doubles() const { return doubles_; }
    size_t work_group() const { return work_group_; }
    size_t local_memory() const { return local_memory_; }

    cl_context context();
    cl_command_queue queue(infinirtStream_t stream) {
        return stream ? static_cast<Stream *>(stream)->queue : own_queue();
    }
    cl_program program(const char *file, const std::string &options);

    void *allocate(size_t size);
    void free(void *address);
    void free_on(void *address, cl_command_queue queue);
    // Refuses a range that does not lie in one allocation of this device.
    void require(const void *address, size_t size, const char *argument);
    std::pair<size_t, size_t> free_and_total();

    Stream *create_stream();
    void destroy_stream(Stream *stream);
    void finish();

private:
    void open();
    cl_command_queue own_queue();
    cl_command_queue create_queue();
    void *forget(void *address);

    cl_platform_id platform_;
    cl_device_id id_;
    bool doubles_;
    size_t work_group_, local_memory_, total_, largest_;

    std::once_flag opened_;
    cl_context context_ = nullptr;
    cl_command_queue queue_ = nullptr;

    std::mutex programs_mutex_;
    std::map<std::string, cl_program> programs_;
    std::mutex mutex_;                           // of what follows
    std::map<const char *, size_t> allocations_; // by the address that infinirt gave out
    size_t used_ = 0;
    std::set<cl_command_queue> queues_;
};

// Devices of all platforms that can serve, in the order in which OpenCL names them; found once.
const std::vector<Device *> &devices();
Device &device_at(int index);

extern const infinirtRuntime runtime;

} // namespace opencl
