// linear_packed_size: bytes that linear_pack writes.
#include "infiniop/schema/linear_packed_size.h"

#include "packing.h"

namespace infiniop::nvidia {
namespace {

using schema::linear_packed_size::A;
using schema::linear_packed_size::T;

__global__ void store_size(int64_t *to, int64_t size) { *to = size; }

struct State {
    int64_t size;

    static Status create(const Call &call, State &s, size_t &) {
        PackedWeight w = {};
        const Status status = describe<T, A>(call, w);
        s.size = w.bytes(int(element_size(call.dtype(T::weight))));
        return status;
    }

    Status calculate(const Run &run) const {
        return launch(store_size, 1, 1, 0, run.stream(), run.data<int64_t>(T::size), size);
    }
};

constexpr infiniopKernel kernel =
    make_kernel<State>(schema::linear_packed_size::op, schema::linear_packed_size::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
