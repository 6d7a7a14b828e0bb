// An operator's schema as the core reads it: constant tables, generated from operators/*.py at build time, plus one
// function per constraint. schema.cc interprets them; the typed C functions (generated too) only pack arguments.
#pragma once

#include <cstddef>
#include <cstdint>

#include "infiniop/backend.h"

namespace infini {

enum class Role : uint8_t { in, out, inout };
enum class Strides : uint8_t { any, unit_last, contiguous, matrix };

// One token of a shape: an axis (bound to one extent) or a group (bound to a run of extents).
struct AxisToken {
    bool group;
    uint8_t index; // into OperatorSchema::axes or ::groups
};

struct ShapeAlternative {
    const AxisToken *tokens;
    size_t ntokens;
};

struct TensorSchema {
    const char *name;
    Role role;
    Strides strides;
    const ShapeAlternative *alternatives; // tried in order; the first whose rank fits is taken
    size_t nalternatives;
    int dtype_var;              // into OperatorSchema::dtype_vars; -1: fixed
    infiniDtype_t dtype;        // the fixed one
    uint8_t min_rank, max_rank; // further bound for shapes with a group; max 255
    bool optional;              // NULL descriptor allowed
    bool null_at_run;           // NULL pointer allowed although described
    bool opaque = false;        // bytes in a layout of the backend's own
    bool whole = false;         // an output of which every element is written, and none is read
};

struct DtypeVar {
    const char *name;
    const infiniDtype_t *allowed;
    size_t nallowed;
};

enum class AttrKind : uint8_t { integer, real, array };
enum class AttrTime : uint8_t { create = 1, run = 2, both = 3 };

// What a constraint or a length sees.
struct SchemaEnv {
    const int64_t *axis;       // extents, by axis; 1 where nothing bound it
    const int64_t *group_size; // number of elements, by group
    const int64_t *group_ndim; // number of axes, by group
    const infiniopValue *attrs;
    const int *dtype; // infiniDtype_t by dtype variable
    const infiniopTensorView *const *tensors;
};

struct AttrSchema {
    const char *name;
    const char *ctype;
    AttrKind kind;
    AttrTime time;
    size_t element_size;                  // of an array's elements, bytes
    int64_t (*length)(const SchemaEnv &); // of an array, elements; else nullptr
};

// What a message prints of a constraint: the names that its expression uses.
enum class ValueKind : uint8_t { axis, group_size, group_ndim, attr_integer, attr_real, dtype, shape };
struct ValueRef {
    const char *name;
    ValueKind kind;
    uint8_t index;
};

struct ConstraintSchema {
    bool (*holds)(const SchemaEnv &);
    const char *argument;
    const char *expected;
    infiniStatus_t status;
    bool at_run;
    const ValueRef *uses;
    size_t nuses;
};

// Output and input that may be the same memory (with the same strides).
struct AliasPair {
    uint8_t output, input;
};

// |actual - expected| <= atol + rtol * |expected|, by the dtype of the first output; a dtype without one is exact.
struct Tolerance {
    infiniDtype_t dtype;
    double atol, rtol;
};

struct OperatorSchema {
    const char *name;
    const char *symbol;
    uint32_t version;
    const char *const *axes;
    size_t naxes;
    const char *const *groups;
    size_t ngroups;
    int64_t (*const *group_rank)(const SchemaEnv &); // by group: rank fixed by an expression, or nullptr
    const DtypeVar *dtype_vars;
    size_t ndtype_vars;
    const TensorSchema *tensors;
    size_t ntensors;
    const AttrSchema *attrs;
    size_t nattrs;
    const ConstraintSchema *constraints;
    size_t nconstraints;
    const AliasPair *aliases;
    size_t naliases;
    infiniStatus_t shape_status;
    infiniStatus_t rank_status;
    const OperatorSchema *shares; // its descriptors answer to this operator's getter and destroy too
    const Tolerance *tolerances = nullptr;
    size_t ntolerances = 0;
    bool own_comparison = false; // the schema has one, in Python, which forgives more than the tolerances
};

} // namespace infini
