#include <cstring>

#include "cpu.h"

#include "infiniop/schema/select_last_token_hidden.h"

namespace infiniop::cpu {
namespace {

using T = schema::select_last_token_hidden::T;

// Output row r = hidden row input_offsets[r + 1] - 1, all contiguous.
struct State {
    size_t requests, tokens, bytes; // bytes of one row

    static Status create(const Call &call, State &state, size_t &) {
        state.requests = call.dim(T::input_offsets, 0) - 1;
        state.tokens = call.dim(T::hidden_states, 0) * call.dim(T::hidden_states, 1);
        state.bytes = call.dim(T::hidden_states, 2) * element_size(call.dtype(T::hidden_states));
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        const int32_t *offsets = run.data<int32_t>(T::input_offsets);
        for (size_t r = 1; r <= requests; r++) {
            if (offsets[r] < 1 || size_t(offsets[r]) > tokens) {
                return fail(INFINI_STATUS_BAD_PARAM, schema::select_last_token_hidden::op, "input_offsets",
                            Text("ends of requests from 1 to %zu", tokens), Text("%d at [%zu]", offsets[r], r));
            }
        }
        char *output = run.data<char>(T::output);
        const char *hidden = run.data<char>(T::hidden_states);
        for (size_t r = 0; r < requests && bytes > 0; r++) {
            std::memcpy(output + r * bytes, hidden + size_t(offsets[r + 1] - 1) * bytes, bytes);
        }
        return INFINI_STATUS_SUCCESS;
    }
};

constexpr infiniopKernel kernel =
    make_kernel<State>(schema::select_last_token_hidden::op, schema::select_last_token_hidden::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
