// paged_attention: one query token per sequence over a paged KV cache.
#include "infiniop/schema/paged_attention.h"

#include "paged.h"

namespace infiniop::nvidia {
namespace {

using schema::paged_attention::A;
using schema::paged_attention::T;

struct State : PagedState<T, A> {
    static Status create(const Call &call, State &s, size_t &workspace) { return s.prepare(call, false, workspace); }

    Status calculate(const Run &run) const { return launch(schema::paged_attention::op, run, nullptr); }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::paged_attention::op, schema::paged_attention::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
