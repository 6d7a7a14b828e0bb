// What the generated C functions call.
#pragma once

#include "infiniop/handle.h"
#include "infiniop/tensor_descriptor.h"
#include "schema.hpp"

struct InfiniopDescriptor;

namespace infini {

// infiniopCreate<Op>Descriptor: tensors and attrs in schema order (attributes given at run are 0).
infiniStatus_t create_descriptor(const OperatorSchema &schema, infiniopHandle_t handle, InfiniopDescriptor **desc_ptr,
                                 const infiniopTensorDescriptor_t *tensors, const infiniopValue *attrs);

// infiniopGet<Op>WorkspaceSize
infiniStatus_t workspace_size(const OperatorSchema &schema, const InfiniopDescriptor *desc, size_t *size);

// infiniop<Op>: data in schema order; attrs in schema order, those given at create are ignored (may be nullptr when the
// operator takes none at run). Operators without workspace arguments pass nullptr, SIZE_MAX.
infiniStatus_t calculate(const OperatorSchema &schema, InfiniopDescriptor *desc, void *workspace, size_t workspace_size,
                         void *const *data, const infiniopValue *attrs, void *stream);

// infiniopDestroy<Op>Descriptor
infiniStatus_t destroy_descriptor(const OperatorSchema &schema, InfiniopDescriptor *desc);

// A symbol of the ABI whose operator is not built: DEVICE_TYPE_NOT_SUPPORTED and a message.
infiniStatus_t not_built(const char *symbol);

// Every operator that is built, in alphabetical order; generated.
extern const OperatorSchema *const operator_schemas[];
extern const size_t operator_schema_count;

} // namespace infini
