// Who computes: the registered backends, and plugins to load.
#pragma once

#include <vector>

#include "error.hpp"

namespace infiniop {

// One row per backend, those that failed to load included (`error` says why).
inline Result<std::vector<infiniopBackendInfo>> backends(nothrow_t) {
    size_t count = 0;
    infiniStatus_t status = infiniopGetBackendCount(&count);
    std::vector<infiniopBackendInfo> rows(count);
    for (size_t i = 0; i < count && status == detail::success; ++i) {
        rows[i].struct_size = sizeof rows[i];
        status = infiniopGetBackendInfo(i, &rows[i]);
    }
    return detail::done(nothrow, status, std::move(rows));
}
inline std::vector<infiniopBackendInfo> backends() { return detail::value(backends(nothrow)); }

// Whether the backend has a kernel for the operator, both by name.
inline Result<bool> has_operator(nothrow_t, const char *backend, const char *op) {
    int has = 0;
    const infiniStatus_t status = infiniopBackendHasOperator(backend, op, &has);
    return detail::done(nothrow, status, has != 0);
}
inline bool has_operator(const char *backend, const char *op) {
    return detail::value(has_operator(nothrow, backend, op));
}

inline Result<void> load_backend(nothrow_t, const char *path) {
    return detail::done(nothrow, infiniopLoadBackend(path));
}
inline void load_backend(const char *path) { detail::value(load_backend(nothrow, path)); }

} // namespace infiniop
