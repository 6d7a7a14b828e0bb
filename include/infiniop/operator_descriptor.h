/* What every operator descriptor has in common. Valid C11 and C++17. */
#ifndef INFINIOP_OPERATOR_DESCRIPTOR_H
#define INFINIOP_OPERATOR_DESCRIPTOR_H

#include "../infinicore.h"

/* Begins with `infiniDevice_t device; int device_id;`. */
struct InfiniopDescriptor;

INFINI_API infiniStatus_t infiniopGetDescriptorDeviceType(const struct InfiniopDescriptor *desc_ptr, infiniDevice_t *device_type);
INFINI_API infiniStatus_t infiniopGetDescriptorDeviceId(const struct InfiniopDescriptor *desc_ptr, int *device_id);

/* The name of the backend that serves the descriptor; lives as long as the process. */
INFINI_API infiniStatus_t infiniopGetDescriptorBackend(const struct InfiniopDescriptor *desc_ptr, const char **backend);

#endif
