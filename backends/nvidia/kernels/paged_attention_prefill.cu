// paged_attention_prefill: the new tokens of several sequences, packed one after the other, over a paged KV cache.
#include "infiniop/schema/paged_attention_prefill.h"

#include "paged.h"

namespace infiniop::nvidia {
namespace {

using schema::paged_attention_prefill::A;
using schema::paged_attention_prefill::T;

struct State : PagedState<T, A> {
    static Status create(const Call &call, State &s, size_t &workspace) { return s.prepare(call, true, workspace); }

    Status calculate(const Run &run) const {
        return launch(schema::paged_attention_prefill::op, run, run.data<void>(T::cum_seq_lens_q));
    }
};

constexpr infiniopKernel kernel =
    make_kernel<State>(schema::paged_attention_prefill::op, schema::paged_attention_prefill::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
