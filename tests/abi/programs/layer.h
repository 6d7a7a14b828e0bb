// A backend of our own that counts, for the tests of the C++ layer: add needs a workspace, writes into it and sums.
#ifndef INFINIOP_TESTS_LAYER_H
#define INFINIOP_TESTS_LAYER_H

#include <infiniop.hpp>
#include <infiniop/schema/add.h>

#include <atomic>
#include <cstring>

namespace counting {

inline constexpr size_t workspace_bytes = 48;
inline std::atomic<int> created{0}, destroyed{0}, calculated{0};
inline std::atomic<void *> last_workspace{nullptr};

inline infiniStatus_t create(void *, const infiniopCall *call, void **state, size_t *workspace) {
    ++created;
    *state = new size_t(call->tensors[0]->shape[0]);
    *workspace = workspace_bytes;
    return INFINI_STATUS_SUCCESS;
}

inline infiniStatus_t calculate(void *state, const infiniopRun *run) {
    ++calculated;
    std::memset(run->workspace, 0x5a, workspace_bytes);
    last_workspace = run->workspace;
    const auto *a = static_cast<const float *>(run->data[1]), *b = static_cast<const float *>(run->data[2]);
    for (size_t i = 0; i < *static_cast<size_t *>(state); ++i) {
        static_cast<float *>(run->data[0])[i] = a[i] + b[i];
    }
    return INFINI_STATUS_SUCCESS;
}

inline void destroy(void *state) {
    ++destroyed;
    delete static_cast<size_t *>(state);
}

inline void enter() {
    namespace schema = infiniop::schema::add;
    static const infiniopKernel add{sizeof add, schema::op, schema::version, nullptr,
                                    create,     calculate,  destroy,         nullptr};
    static const infiniopKernel *const kernels[] = {&add};
    static const infiniopBackend backend{sizeof backend,
                                         INFINIOP_BACKEND_ABI_MAJOR,
                                         INFINIOP_BACKEND_ABI_MINOR,
                                         "counting",
                                         "cpu",
                                         "1",
                                         0,
                                         INFINIOP_BACKEND_EXPLICIT_ONLY,
                                         nullptr,
                                         nullptr,
                                         1,
                                         kernels};
    infiniopRegisterBackend(&backend);
}

} // namespace counting

#endif
