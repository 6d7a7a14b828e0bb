// Handles and tensor descriptors.
#include "infiniop/handle.h"
#include "infiniop/operator_descriptor.h"
#include "objects.hpp"
#include "runtime/devices.hpp"

namespace infini {
namespace {

infiniStatus_t create_handle(const char *op, infiniopHandle_t *handle_ptr, const Backend *backend) {
    Device device;
    if (const infiniStatus_t status = current_device(op, &device)) {
        return status;
    }
    if (backend && backend->device != device.type) {
        return fail(INFINI_STATUS_BAD_PARAM, op, "backend", "one for the current device " + device.backend->device_name,
                    backend->name + ", which is for " + backend->device_name);
    }
    *handle_ptr = new InfiniopHandle{device.type, device.id, InfiniopHandle::expected_magic, backend};
    return INFINI_STATUS_SUCCESS;
}

infiniStatus_t no_such_backend(const char *op, const char *name) {
    std::string known;
    for (const Backend *backend : all_backends()) {
        if (backend->name == name && !backend->error.empty()) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "backend", "one that is loaded",
                        std::string(name) + ", which failed: " + backend->error);
        }
        if (backend->error.empty()) {
            known += (known.empty() ? "" : ", ") + backend->name;
        }
    }
    return fail(INFINI_STATUS_BAD_PARAM, op, "backend", "one of: " + known, name);
}

void row_major(InfiniopTensorDescriptor &d) {
    size_t stride = 1; // wraps around for absurd shapes, which no operator accepts
    for (size_t i = d.ndim; i-- > 0;) {
        d.strides[i] = static_cast<ptrdiff_t>(stride);
        stride *= d.shape[i];
    }
}

infiniStatus_t create_tensor(infiniopTensorDescriptor_t *desc_ptr, size_t ndim, const size_t *shape,
                             const ptrdiff_t *strides, const infiniDtype_t &dtype) {
    constexpr const char *op = "infiniopCreateTensorDescriptor";
    if (!desc_ptr || (ndim && !shape)) {
        return fail_null(op, desc_ptr ? "shape" : "desc_ptr");
    }
    if (raw(dtype) < INFINI_DTYPE_INVALID || raw(dtype) > INFINI_DTYPE_BF16) {
        return fail(INFINI_STATUS_BAD_TENSOR_DTYPE, op, "dtype", "0 to 19", std::to_string(raw(dtype)));
    }
    if (ndim > max_rank) {
        return fail(INFINI_STATUS_BAD_TENSOR_SHAPE, op, "ndim", "at most " + std::to_string(max_rank),
                    std::to_string(ndim));
    }
    auto desc = std::make_unique<InfiniopTensorDescriptor>();
    desc->ndim = ndim;
    desc->dtype = dtype;
    desc->shape.assign(shape, shape + ndim);
    desc->strides.resize(ndim);
    if (strides) {
        desc->strides.assign(strides, strides + ndim);
    } else {
        row_major(*desc);
    }
    *desc_ptr = desc.release();
    return INFINI_STATUS_SUCCESS;
}

// Destroy what the pointer points to; NULL is fine.
template <class Object> infiniStatus_t destroy(const char *op, const char *argument, Object *object) {
    return guarded(op, [&] {
        const infiniStatus_t status = object ? check_object(op, argument, object) : INFINI_STATUS_SUCCESS;
        if (status == INFINI_STATUS_SUCCESS) {
            delete object;
        }
        return status;
    });
}

// Read something of an operator descriptor.
template <class Value, class Read>
infiniStatus_t read(const char *op, const InfiniopDescriptor *desc, const char *argument, Value *out, Read &&value) {
    return guarded(op, [&] {
        if (!out) {
            return fail_null(op, argument);
        }
        const infiniStatus_t status = check_object(op, "desc_ptr", desc);
        if (status == INFINI_STATUS_SUCCESS) {
            *out = value();
        }
        return status;
    });
}

} // namespace
} // namespace infini

using namespace infini;

infiniStatus_t infiniopCreateHandle(infiniopHandle_t *handle_ptr) {
    return guarded(__func__, [&] {
        return handle_ptr ? create_handle("infiniopCreateHandle", handle_ptr, nullptr)
                          : fail_null("infiniopCreateHandle", "handle_ptr");
    });
}

infiniStatus_t infiniopCreateHandleForBackend(infiniopHandle_t *handle_ptr, const char *backend) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infiniopCreateHandleForBackend";
        if (!handle_ptr || !backend) {
            return fail_null(op, handle_ptr ? "backend" : "handle_ptr");
        }
        const Backend *named = find_backend(backend);
        return named ? create_handle(op, handle_ptr, named) : no_such_backend(op, backend);
    });
}

infiniStatus_t infiniopDestroyHandle(infiniopHandle_t handle) {
    return destroy("infiniopDestroyHandle", "handle", handle);
}

infiniStatus_t infiniopCreateTensorDescriptor(infiniopTensorDescriptor_t *desc_ptr, size_t ndim, const size_t *shape,
                                              const ptrdiff_t *strides, infiniDtype_t dtype) {
    return guarded(__func__, [&] { return create_tensor(desc_ptr, ndim, shape, strides, dtype); });
}

infiniStatus_t infiniopDestroyTensorDescriptor(infiniopTensorDescriptor_t desc) {
    return destroy("infiniopDestroyTensorDescriptor", "desc", desc);
}

infiniStatus_t infiniopGetDescriptorDeviceType(const InfiniopDescriptor *desc_ptr, infiniDevice_t *device_type) {
    return read(__func__, desc_ptr, "device_type", device_type, [&] { return desc_ptr->device; });
}

infiniStatus_t infiniopGetDescriptorDeviceId(const InfiniopDescriptor *desc_ptr, int *device_id) {
    return read(__func__, desc_ptr, "device_id", device_id, [&] { return desc_ptr->device_id; });
}

infiniStatus_t infiniopGetDescriptorBackend(const InfiniopDescriptor *desc_ptr, const char **backend) {
    return read(__func__, desc_ptr, "backend", backend, [&] { return desc_ptr->kernel->backend->name.c_str(); });
}
