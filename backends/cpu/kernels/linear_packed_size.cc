// linear_packed_size: bytes that linear_pack writes.
#include "infiniop/schema/linear_packed_size.h"

#include "quantised.h"

namespace infiniop::cpu {
namespace {

using schema::linear_packed_size::A;
using schema::linear_packed_size::T;

struct State {
    int64_t size;

    static Status create(const Call &call, State &s, size_t &) {
        const int64_t format = call.integer(A::format);
        const size_t group_size = size_t(call.integer(A::group_size));
        s.size =
            int64_t(format ? quantised_weight(call, T::weight, T::scales, T::zeros, group_size, format == 2).bytes()
                           : packed_bytes(call.dim(T::weight, 0), call.dim(T::weight, 1), call.dtype(T::weight)));
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        *run.data<int64_t>(T::size) = size;
        return INFINI_STATUS_SUCCESS;
    }
};

constexpr infiniopKernel kernel =
    make_kernel<State>(schema::linear_packed_size::op, schema::linear_packed_size::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
