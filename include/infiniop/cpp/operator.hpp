// What the generated operator classes and functions stand on: handles, descriptors, and the descriptors that the
// functions keep.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../handle.h"
#include "../operator_descriptor.h"
#include "graph.hpp"
#include "tensor.hpp"

namespace infiniop {

// For the calling thread's current device; with a name, served by that backend and by no other.
class Handle {
public:
    explicit Handle(const char *backend = nullptr) : Handle(detail::value(create(nothrow, backend))) {}
    static Result<Handle> create(nothrow_t, const char *backend = nullptr) {
        infiniopHandle_t handle = nullptr;
        const infiniStatus_t status =
            backend ? infiniopCreateHandleForBackend(&handle, backend) : infiniopCreateHandle(&handle);
        return detail::done(nothrow, status, Handle(handle));
    }
    infiniopHandle_t get() const noexcept { return handle_.get(); }

private:
    explicit Handle(infiniopHandle_t handle) : handle_(handle) {}
    std::unique_ptr<InfiniopHandle, detail::Destroy<infiniopDestroyHandle>> handle_;
};

// Scratch memory for one call at a time.
struct Workspace {
    Workspace() = default;
    Workspace(void *memory, size_t bytes) noexcept : data(memory), size(bytes) {}
    template <class T> Workspace(const Memory<T> &memory) noexcept : data(memory.data()), size(memory.bytes()) {}

    void *data = nullptr;
    size_t size = 0;
};

namespace detail {

// The C library's descriptors of some layouts, as long as a create call needs them.
template <size_t Count> class TensorDescriptors {
public:
    explicit TensorDescriptors(const std::array<const Layout *, Count> &layouts) {
        for (size_t i = 0; i < Count && status_ == success; ++i) {
            status_ = describe(*layouts[i], &tensors_[i]);
        }
    }
    ~TensorDescriptors() {
        for (const infiniopTensorDescriptor_t tensor : tensors_) {
            infiniopDestroyTensorDescriptor(tensor);
        }
    }
    TensorDescriptors(const TensorDescriptors &) = delete;
    TensorDescriptors &operator=(const TensorDescriptors &) = delete;

    infiniStatus_t status() const noexcept { return status_; }
    infiniopTensorDescriptor_t operator[](size_t i) const noexcept { return tensors_[i]; }

private:
    static infiniStatus_t refuse(infiniStatus_t status, const char *argument, const std::string &expected, size_t got) {
        const std::string number = std::to_string(got);
        const infiniopError error{sizeof error,   status, "infiniop::Layout", argument, expected.c_str(),
                                  number.c_str(), nullptr};
        infiniopGetHost()->set_error(&error);
        return status;
    }
    static infiniStatus_t describe(const Layout &layout, infiniopTensorDescriptor_t *tensor) {
        const size_t rank = layout.rank();
        if (!layout.given()) {
            return success; // absent: whether that is allowed, the operator knows
        }
        if (rank > max_rank) {
            return refuse(INFINI_STATUS_BAD_TENSOR_SHAPE, "shape", std::to_string(max_rank) + " axes at most", rank);
        }
        if (layout.strides().size() != rank) {
            return refuse(INFINI_STATUS_BAD_TENSOR_STRIDES, "strides", "as many as axes: " + std::to_string(rank),
                          layout.strides().size());
        }
        return infiniopCreateTensorDescriptor(tensor, rank, layout.shape().data(), layout.strides().data(),
                                              layout.dtype());
    }

    std::array<infiniopTensorDescriptor_t, Count> tensors_{};
    infiniStatus_t status_ = success;
};
template <class... Layouts> TensorDescriptors<sizeof...(Layouts)> describe(const Layouts &...layouts) {
    return TensorDescriptors<sizeof...(Layouts)>({static_cast<const Layout *>(&layouts)...});
}

using DestroyDescriptor = infiniStatus_t (*)(InfiniopDescriptor *);
using GetWorkspaceSize = infiniStatus_t (*)(InfiniopDescriptor *, size_t *);

} // namespace detail

// An operator descriptor: checked, prepared, bound to a kernel; it destroys itself. The operators' classes derive from
// it.
class Descriptor {
public:
    InfiniopDescriptor *get() const noexcept { return desc_.get(); }
    // Bytes that run() needs.
    size_t workspace_size() const noexcept { return workspace_size_; }
    // Who computes.
    const char *backend() const noexcept {
        const char *name = "";
        infiniopGetDescriptorBackend(get(), &name);
        return name;
    }
    Device device() const noexcept {
        Device device;
        infiniopGetDescriptorDeviceType(get(), &device.type);
        infiniopGetDescriptorDeviceId(get(), &device.id);
        return device;
    }

    // Takes over what a create function gave.
    static Result<Descriptor> adopt(nothrow_t, infiniStatus_t status, InfiniopDescriptor *desc,
                                    detail::GetWorkspaceSize get_size, detail::DestroyDescriptor destroy) {
        if (status != detail::success) {
            return detail::failed(nothrow, status);
        }
        Descriptor made(desc, destroy);
        if (get_size) {
            status = get_size(desc, &made.workspace_size_);
        }
        return detail::done(nothrow, status, std::move(made));
    }

    // A workspace of its own, made when it is first asked for; what operator() uses.
    Result<Workspace> own_workspace(nothrow_t) {
        if (workspace_.bytes() < workspace_size_) {
            const detail::OnDevice here(device());
            Result<Memory<>> memory = Memory<>::create(nothrow, workspace_size_);
            if (!memory) {
                return detail::failed(memory);
            }
            workspace_ = *std::move(memory);
        }
        return Workspace(workspace_);
    }

private:
    Descriptor(InfiniopDescriptor *desc, detail::DestroyDescriptor destroy) : desc_(desc, destroy) {}

    Memory<> workspace_;
    std::unique_ptr<InfiniopDescriptor, detail::DestroyDescriptor> desc_;
    size_t workspace_size_ = 0;
};

} // namespace infiniop
