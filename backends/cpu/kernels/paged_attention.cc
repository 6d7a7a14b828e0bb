// paged_attention: one query token per sequence over a paged KV cache.
#include "infiniop/schema/paged_attention.h"

#include "paged.h"

namespace infiniop::cpu {
namespace {

using schema::paged_attention::A;
using schema::paged_attention::op;
using schema::paged_attention::T;

struct OnePerSequence {
    size_t sequences;

    int64_t begin(size_t sequence) const { return int64_t(sequence); }
    size_t tiles() const { return sequences; }
    TokenTile tile(size_t i) const { return {i, 0, 1}; }
};

struct State : PagedState<T, A> {
    static Status create(const Call &call, State &s, size_t &workspace) {
        s.prepare(call, 1, workspace);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        return visit([&](auto element, auto id) {
            using E = typename decltype(element)::type;
            using I = typename decltype(id)::type;
            for (size_t n = 0; n < sequences; n++) {
                const Status status =
                    cache.check(op, run.data<const I>(T::block_tables), run.data<const I>(T::seq_lens), n);
                if (status != INFINI_STATUS_SUCCESS) {
                    return status;
                }
            }
            attend<E, I>(run, OnePerSequence{sequences});
            return Status(INFINI_STATUS_SUCCESS);
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(op, schema::paged_attention::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
