/* Backends at run time: loading, listing, the last error, versions. Valid C11 and C++17. */
#ifndef INFINIOP_REGISTRY_H
#define INFINIOP_REGISTRY_H

#include "../infinicore.h"
#include "backend.h"

/* The calling thread's last failure, as one sentence; "" when nothing has failed. Valid until the thread's next
 * failing call. */
INFINI_API const char *infiniopGetLastError(void);
/* The same in parts. Set error->struct_size first; absent parts are "". */
INFINI_API infiniStatus_t infiniopGetLastErrorInfo(infiniopError *error);

/* Load one plugin, or register a table that lives in this process. */
INFINI_API infiniStatus_t infiniopLoadBackend(const char *path);
INFINI_API infiniStatus_t infiniopRegisterBackend(const infiniopBackend *backend);
/* What a plugin gets at init, for tables that live in this process: how their kernels report errors. */
INFINI_API const infiniopHost *infiniopGetHost(void);
/* Note a plugin that could not even be imported, so that listings show it. */
INFINI_API infiniStatus_t infiniopReportBackendError(const char *name, const char *origin, const char *message);

/* One row per backend, those that failed to load included. Strings live as long as the process. */
typedef struct infiniopBackendInfo {
    size_t struct_size;
    const char *name;
    const char *device_name;
    infiniDevice_t device;
    const char *version;
    const char *origin; /* path of the library, or who registered it */
    int32_t priority;
    uint32_t flags;
    int device_count;
    size_t nkernels; /* those that can be used */
    const char *error;     /* "" when it loaded */
    uint64_t fallbacks;    /* descriptors created here because the backends before it could not */
    const char *notes;     /* what of a loaded backend is not used, and why; "" */
} infiniopBackendInfo;

INFINI_API infiniStatus_t infiniopGetBackendCount(size_t *count);
/* Set info->struct_size first. */
INFINI_API infiniStatus_t infiniopGetBackendInfo(size_t index, infiniopBackendInfo *info);
/* Whether the backend has a kernel for the operator. */
INFINI_API infiniStatus_t infiniopBackendHasOperator(const char *backend, const char *op, int *has);
/* What the backend registered for the operator: for tools that test kernels one by one. Set kernel->struct_size first. */
INFINI_API infiniStatus_t infiniopGetKernel(const char *backend, const char *op, infiniopKernel *kernel);

/* Device names and numbers. */
INFINI_API infiniStatus_t infiniopGetDeviceByName(const char *name, infiniDevice_t *device);
INFINI_API infiniStatus_t infiniopGetDeviceName(infiniDevice_t device, const char **name);

/* "0.1.0", and the plugin ABI that this library speaks. */
INFINI_API const char *infiniopGetVersion(void);
INFINI_API infiniStatus_t infiniopGetBackendAbiVersion(uint32_t *major, uint32_t *minor);

#endif
