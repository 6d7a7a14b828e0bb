// Checked mode for what one range cannot say: values are copied to the host and looked at there.
#pragma once

#include <vector>

#include "checked.h"

namespace infiniop::nvidia {

// Whether values on the stream shall and can be looked at: a capture cannot wait.
inline bool checks_now(infinirtStream_t stream) {
    return checked() && !is_capturing(static_cast<cudaStream_t>(stream));
}

// Device memory, once the stream has got so far.
inline Status fetch(std::vector<char> &to, const void *from, size_t bytes, infinirtStream_t stream) {
    to.resize(bytes);
    const auto native = static_cast<cudaStream_t>(stream);
    const Status status =
        check(cudaMemcpyAsync(to.data(), from, bytes, cudaMemcpyDeviceToHost, native), "checking values");
    return status == INFINI_STATUS_SUCCESS ? check(cudaStreamSynchronize(native), "checking values") : status;
}

// Integers of a dtype that indices have, wherever they lie.
class Integers {
public:
    Status read(const void *from, int64_t count, infiniDtype_t dtype, infinirtStream_t stream) {
        dtype_ = dtype;
        return fetch(bytes_, from, size_t(count) * element_size(dtype), stream);
    }

    int64_t operator[](int64_t i) const {
        const char *p = bytes_.data();
        return dtype_ == INFINI_DTYPE_I64   ? reinterpret_cast<const int64_t *>(p)[i]
               : dtype_ == INFINI_DTYPE_I32 ? int64_t(reinterpret_cast<const int32_t *>(p)[i])
                                            : int64_t(reinterpret_cast<const uint32_t *>(p)[i]);
    }

private:
    std::vector<char> bytes_;
    infiniDtype_t dtype_ = INFINI_DTYPE_I64;
};

} // namespace infiniop::nvidia
