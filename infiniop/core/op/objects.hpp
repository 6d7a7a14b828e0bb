// What the opaque pointers of the ABI point to. The magic numbers stand at the same offset in all three, so that one
// object given as another is seen.
#pragma once

#include <atomic>
#include <cstddef>
#include <vector>

#include "runtime/registry.hpp"
#include "schema.hpp"
#include "validate.hpp"

struct InfiniopTensorDescriptor {
    static constexpr uint64_t expected_magic = 0x696e666974656e73;
    size_t ndim = 0;
    uint64_t magic = expected_magic;
    std::vector<size_t> shape;
    std::vector<ptrdiff_t> strides;
    infiniDtype_t dtype = INFINI_DTYPE_INVALID;
};

struct InfiniopHandle {
    static constexpr uint64_t expected_magic = 0x696e666968616e64;
    infiniDevice_t device;
    int device_id;
    uint64_t magic = expected_magic;
    const infini::Backend *backend = nullptr; // serves every descriptor; nullptr: the registry chooses
};

namespace infini {

// Two tensors that must not lie in the same memory: an output, and another at `address of output + d`. They do for the
// `count` distances d from `first` on; d = 0 is allowed where the schema says in place.
struct Apart {
    uint8_t output, other;
    bool in_place;
    uintptr_t first, count;
};

} // namespace infini

struct InfiniopDescriptor {
    static constexpr uint64_t expected_magic = 0x696e666964657363;
    infiniDevice_t device;
    int device_id;
    uint64_t magic = expected_magic;
    const infini::OperatorSchema *schema;
    infiniStatus_t (*calculate)(void *state, const infiniopRun *run);
    void (*destroy)(void *state) = nullptr;
    void *state = nullptr;
    size_t workspace_size = 0;
    uint64_t present = 0;  // by tensor: has elements
    uint64_t required = 0; // by tensor: its pointer must not be NULL
    bool outputs_empty = true;
    bool late_attrs = false; // some are given at run
    bool late_checks = false;
    std::vector<infini::Apart> apart;
    std::vector<infiniopValue> attrs; // as given at create

    const infini::Kernel *kernel = nullptr;
    infini::Binding binding;
    std::vector<std::vector<char>> arrays; // copies of host arrays
    std::atomic<int> references{1};        // the caller's, and one per recorded call

    ~InfiniopDescriptor() {
        if (destroy) {
            infini::guarded(schema->name, [&] { return destroy(state), INFINI_STATUS_SUCCESS; });
        }
    }
};

static_assert(offsetof(InfiniopHandle, device_id) == 4 && offsetof(InfiniopHandle, magic) == 8);

namespace infini {

// NULL, or not that kind of object, or SUCCESS.
template <class Object> infiniStatus_t check_object(const char *op, const char *argument, const Object *object) {
    if (!object) {
        return fail_null(op, argument);
    }
    if (object->magic != Object::expected_magic) {
        return fail(INFINI_STATUS_BAD_PARAM, op, argument, "an object of that kind, not destroyed", "something else");
    }
    return INFINI_STATUS_SUCCESS;
}

} // namespace infini
