/* Handles: the device that an operator descriptor is created for. Valid C11 and C++17. */
#ifndef INFINIOP_HANDLE_H
#define INFINIOP_HANDLE_H

#include "../infinicore.h"

/* Begins with `infiniDevice_t device; int device_id;`. */
typedef struct InfiniopHandle *infiniopHandle_t;

/* For the calling thread's current device. */
INFINI_API infiniStatus_t infiniopCreateHandle(infiniopHandle_t *handle_ptr);
INFINI_API infiniStatus_t infiniopDestroyHandle(infiniopHandle_t handle);

/* The same, with every descriptor served by the named backend and by no other. */
INFINI_API infiniStatus_t infiniopCreateHandleForBackend(infiniopHandle_t *handle_ptr, const char *backend);

#endif
