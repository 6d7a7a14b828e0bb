// The interpreter of operator schemas.
#pragma once

#include <string>
#include <vector>

#include "infiniop/tensor_descriptor.h"
#include "schema.hpp"

namespace infini {

constexpr size_t max_rank = 64, max_tensors = 32, max_attrs = 32;

// What validation found out; a descriptor keeps it for the constraints that are checked at run.
struct Binding {
    std::vector<int64_t> axis, group_size, group_ndim;
    std::vector<int> dtype;
    std::vector<size_t> shapes; // of all tensors, one after the other; the views point into these two
    std::vector<ptrdiff_t> strides;
    std::vector<infiniopTensorView> views;
    std::vector<const infiniopTensorView *> tensors; // schema order; nullptr: left out

    SchemaEnv env(const infiniopValue *attrs) const {
        return {axis.data(), group_size.data(), group_ndim.data(), attrs, dtype.data(), tensors.data()};
    }
};

// Whole validation of a create call. The binding must be empty, and must not move afterwards.
infiniStatus_t validate(const OperatorSchema &schema, const infiniopTensorDescriptor_t *descriptors,
                        const infiniopValue *attrs, Binding &binding);

infiniStatus_t check_constraints(const OperatorSchema &schema, const SchemaEnv &env, bool at_run);

// Bytes of an array attribute; NULL and absurd lengths are refused.
infiniStatus_t array_bytes(const OperatorSchema &schema, const AttrSchema &attr, const infiniopValue &value,
                           const SchemaEnv &env, size_t *bytes);

size_t element_size(infiniDtype_t dtype);
const char *dtype_name(infiniDtype_t dtype);
bool is_empty(const infiniopTensorView &view);

} // namespace infini
