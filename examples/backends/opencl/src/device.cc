#include "device.h"

#include <algorithm>
#include <cstring>

#include "sources.h"

namespace opencl {

const infiniopHost *host = nullptr;

// ---- errors

namespace {

const char *name_of(cl_int code) {
    switch (code) {
    case CL_DEVICE_NOT_AVAILABLE:
        return "CL_DEVICE_NOT_AVAILABLE";
    case CL_COMPILER_NOT_AVAILABLE:
        return "CL_COMPILER_NOT_AVAILABLE";
    case CL_MEM_OBJECT_ALLOCATION_FAILURE:
        return "CL_MEM_OBJECT_ALLOCATION_FAILURE";
    case CL_OUT_OF_RESOURCES:
        return "CL_OUT_OF_RESOURCES";
    case CL_OUT_OF_HOST_MEMORY:
        return "CL_OUT_OF_HOST_MEMORY";
    case CL_PROFILING_INFO_NOT_AVAILABLE:
        return "CL_PROFILING_INFO_NOT_AVAILABLE";
    case CL_MEM_COPY_OVERLAP:
        return "CL_MEM_COPY_OVERLAP";
    case CL_BUILD_PROGRAM_FAILURE:
        return "CL_BUILD_PROGRAM_FAILURE";
    case CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST:
        return "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST";
    case CL_INVALID_VALUE:
        return "CL_INVALID_VALUE";
    case CL_INVALID_COMMAND_QUEUE:
        return "CL_INVALID_COMMAND_QUEUE";
    case CL_INVALID_WORK_GROUP_SIZE:
        return "CL_INVALID_WORK_GROUP_SIZE";
    default:
        return "error";
    }
}

} // namespace

void refuse(Status status, std::string argument, std::string expected, std::string got) {
    throw Error{status, std::move(argument), std::move(expected), std::move(got), {}};
}

void check(cl_int code, const char *call) {
    if (code != CL_SUCCESS) {
        throw Error{INFINI_STATUS_INTERNAL_ERROR,
                    {},
                    {},
                    {},
                    std::string(call) + " answered " + name_of(code) + " (" + std::to_string(code) + ")"};
    }
}

Status report(const Error &error, const char *op) {
    const auto text = [](const std::string &s) { return s.empty() ? nullptr : s.c_str(); };
    const std::string message = error.message.empty() || !op ? error.message : std::string(op) + ": " + error.message;
    const infiniopError given = {sizeof given,         error.status,    op,           text(error.argument),
                                 text(error.expected), text(error.got), text(message)};
    host->set_error(&given);
    return error.status;
}

Status report_unknown(const char *op) {
    return report(Error{INFINI_STATUS_INTERNAL_ERROR, {}, {}, {}, "out of host memory"}, op);
}

// ---- one device

namespace {

template <class T> T info(cl_device_id device, cl_device_info what) {
    T value{};
    check(clGetDeviceInfo(device, what, sizeof value, &value, nullptr), "clGetDeviceInfo");
    return value;
}

std::string text_info(cl_device_id device, cl_device_info what) {
    size_t size = 0;
    check(clGetDeviceInfo(device, what, 0, nullptr, &size), "clGetDeviceInfo");
    std::string text(size, '\0');
    check(clGetDeviceInfo(device, what, size, text.data(), nullptr), "clGetDeviceInfo");
    return text.c_str();
}

// Kernels of one program reduce in groups of this many work items: a power of two.
constexpr size_t preferred_work_group = 64;

bool can_serve(cl_device_id id) {
    cl_device_svm_capabilities shared = 0; // a device of OpenCL 1 does not know the question
    clGetDeviceInfo(id, CL_DEVICE_SVM_CAPABILITIES, sizeof shared, &shared, nullptr);
    return (shared & CL_DEVICE_SVM_COARSE_GRAIN_BUFFER) && info<cl_bool>(id, CL_DEVICE_COMPILER_AVAILABLE) &&
           info<cl_bool>(id, CL_DEVICE_ENDIAN_LITTLE) && info<cl_uint>(id, CL_DEVICE_ADDRESS_BITS) == 64 &&
           info<size_t>(id, CL_DEVICE_MAX_WORK_GROUP_SIZE) >= preferred_work_group;
}

std::vector<Device *> find_devices() {
    std::vector<Device *> found;
    cl_uint nplatforms = 0;
    if (clGetPlatformIDs(0, nullptr, &nplatforms) != CL_SUCCESS) {
        return found; // no platform is an error to some loaders
    }
    std::vector<cl_platform_id> platforms(nplatforms);
    check(clGetPlatformIDs(nplatforms, platforms.data(), nullptr), "clGetPlatformIDs");
    for (const cl_platform_id platform : platforms) {
        cl_uint ndevices = 0;
        if (clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, &ndevices) != CL_SUCCESS) {
            continue;
        }
        std::vector<cl_device_id> ids(ndevices);
        check(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, ndevices, ids.data(), nullptr), "clGetDeviceIDs");
        for (const cl_device_id id : ids) {
            if (can_serve(id)) {
                found.push_back(new Device(platform, id)); // devices live as long as the process
            }
        }
    }
    return found;
}

} // namespace

const std::vector<Device *> &devices() {
    static const std::vector<Device *> all = find_devices();
    return all;
}

Device &device_at(int index) {
    const std::vector<Device *> &all = devices();
    if (index < 0 || size_t(index) >= all.size()) {
        refuse(INFINI_STATUS_DEVICE_NOT_FOUND, "device_id", "below " + std::to_string(all.size()),
               std::to_string(index));
    }
    return *all[size_t(index)];
}

Device::Device(cl_platform_id platform, cl_device_id id)
    : platform_(platform), id_(id),
      doubles_(text_info(id, CL_DEVICE_EXTENSIONS).find("cl_khr_fp64") != std::string::npos),
      work_group_(preferred_work_group), local_memory_(info<cl_ulong>(id, CL_DEVICE_LOCAL_MEM_SIZE)),
      total_(info<cl_ulong>(id, CL_DEVICE_GLOBAL_MEM_SIZE)),
      largest_(info<cl_ulong>(id, CL_DEVICE_MAX_MEM_ALLOC_SIZE)) {}

// On first use: a program that never computes here does not pay for it.
void Device::open() {
    std::call_once(opened_, [this] {
        const cl_context_properties properties[] = {CL_CONTEXT_PLATFORM,
                                                    reinterpret_cast<cl_context_properties>(platform_), 0};
        cl_int code = CL_SUCCESS;
        context_ = clCreateContext(properties, 1, &id_, nullptr, nullptr, &code);
        check(code, "clCreateContext");
        queue_ = create_queue();
    });
}

cl_context Device::context() { return open(), context_; }
cl_command_queue Device::own_queue() { return open(), queue_; }

// ---- programs

cl_program Device::program(const char *file, const std::string &options) {
    const cl_context context = this->context();
    const std::lock_guard lock(programs_mutex_);
    cl_program &program = programs_[file + (" " + options)];
    if (program) {
        return program;
    }
    const char *text = source_of(file);
    cl_int code = CL_SUCCESS;
    const cl_program built = clCreateProgramWithSource(context, 1, &text, nullptr, &code);
    check(code, "clCreateProgramWithSource");
    const std::string all =
        "-cl-std=CL1.2 -cl-fp32-correctly-rounded-divide-sqrt -DGROUP=" + std::to_string(work_group_) + " " + options;
    code = clBuildProgram(built, 1, &id_, all.c_str(), nullptr, nullptr);
    if (code != CL_SUCCESS) {
        std::string log(16384, '\0');
        clGetProgramBuildInfo(built, id_, CL_PROGRAM_BUILD_LOG, log.size(), log.data(), nullptr);
        clReleaseProgram(built);
        throw Error{INFINI_STATUS_INTERNAL_ERROR,
                    {},
                    {},
                    {},
                    std::string("the device's compiler refuses ") + file + " with " + all + ": " + log.c_str()};
    }
    return program = built;
}

// ---- memory

void *Device::allocate(size_t size) {
    if (size > largest_) {
        refuse(INFINI_STATUS_INTERNAL_ERROR, "size", "at most " + std::to_string(largest_) + " bytes on this device",
               std::to_string(size));
    }
    void *memory = clSVMAlloc(context(), CL_MEM_READ_WRITE, size, 0);
    if (!memory) {
        throw Error{
            INFINI_STATUS_INTERNAL_ERROR, {}, {}, {}, "no device memory for " + std::to_string(size) + " bytes"};
    }
    void *const address = from_device(memory);
    const std::lock_guard lock(mutex_);
    allocations_[static_cast<const char *>(address)] = size;
    used_ += size;
    return address;
}

void *Device::forget(void *address) {
    const std::lock_guard lock(mutex_);
    const auto found = allocations_.find(static_cast<const char *>(address));
    if (found == allocations_.end()) {
        refuse(INFINI_STATUS_BAD_PARAM, "ptr", "memory that this device gave out and nobody freed", "something else");
    }
    used_ -= found->second;
    allocations_.erase(found);
    return to_device(address);
}

void Device::free(void *address) {
    void *const memory = forget(address);
    finish();
    clSVMFree(context(), memory);
}

void Device::free_on(void *address, cl_command_queue queue) {
    void *memory[] = {forget(address)};
    check(clEnqueueSVMFree(queue, 1, memory, nullptr, nullptr, 0, nullptr, nullptr), "clEnqueueSVMFree");
}

void Device::require(const void *address, size_t size, const char *argument) {
    const char *const first = static_cast<const char *>(address);
    const std::lock_guard lock(mutex_);
    auto found = allocations_.upper_bound(first);
    if (found == allocations_.begin() || first >= std::prev(found)->first + std::prev(found)->second) {
        refuse(INFINI_STATUS_BAD_PARAM, argument, "memory of this OpenCL device", "another address");
    }
    --found;
    const size_t left = size_t(found->first + found->second - first);
    if (size > left) {
        refuse(INFINI_STATUS_BAD_PARAM, argument, std::to_string(size) + " bytes of device memory",
               std::to_string(left) + " up to the end of the allocation");
    }
}

// OpenCL does not say how much is free: what this process took is known.
std::pair<size_t, size_t> Device::free_and_total() {
    const std::lock_guard lock(mutex_);
    return {total_ - std::min(used_, total_), total_};
}

// ---- queues

cl_command_queue Device::create_queue() {
    const cl_queue_properties properties[] = {CL_QUEUE_PROPERTIES, CL_QUEUE_PROFILING_ENABLE, 0};
    cl_int code = CL_SUCCESS;
    const cl_command_queue queue = clCreateCommandQueueWithProperties(context_, id_, properties, &code);
    check(code, "clCreateCommandQueueWithProperties");
    const std::lock_guard lock(mutex_);
    queues_.insert(queue);
    return queue;
}

Stream *Device::create_stream() {
    open();
    return new Stream{this, create_queue()};
}

void Device::destroy_stream(Stream *stream) {
    const cl_command_queue queue = stream->queue;
    delete stream;
    {
        const std::lock_guard lock(mutex_);
        queues_.erase(queue);
    }
    const cl_int finished = clFinish(queue);
    clReleaseCommandQueue(queue);
    check(finished, "clFinish");
}

void Device::finish() {
    std::vector<cl_command_queue> all;
    {
        const std::lock_guard lock(mutex_);
        for (const cl_command_queue queue : queues_) {
            clRetainCommandQueue(queue); // a stream may be destroyed meanwhile
            all.push_back(queue);
        }
    }
    cl_int failed = CL_SUCCESS;
    for (const cl_command_queue queue : all) {
        const cl_int code = clFinish(queue);
        failed = failed == CL_SUCCESS ? code : failed;
        clReleaseCommandQueue(queue);
    }
    check(failed, "clFinish");
}

} // namespace opencl
