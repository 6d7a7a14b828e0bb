// linear_packed_size: bytes that linear_pack writes.
#include "infiniop/schema/linear_packed_size.h"

#include "packed.h"

namespace infiniop::cpu {
namespace {

using schema::linear_packed_size::A;
using schema::linear_packed_size::T;

struct State {
    int64_t size;

    static Status create(const Call &call, State &s, size_t &) {
        if (const Status status = own_dtype_only(call, A::format); status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        s.size = int64_t(packed_bytes(call.dim(T::weight, 0), call.dim(T::weight, 1), call.dtype(T::weight)));
        return INFINI_STATUS_SUCCESS;
    }

    static Status supports(void *, const infiniopCall *raw) { return own_dtype_only(Call(*raw), A::format); }

    Status calculate(const Run &run) const {
        *run.data<int64_t>(T::size) = size;
        return INFINI_STATUS_SUCCESS;
    }
};

constexpr infiniopKernel kernel =
    make_kernel<State>(schema::linear_packed_size::op, schema::linear_packed_size::version, State::supports);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
