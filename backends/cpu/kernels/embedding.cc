#include <cstring>

#include "pool.h"
#include "cpu.h"

#include "infiniop/schema/embedding.h"

namespace infiniop::cpu {
namespace {

using T = schema::embedding::T;

// output[…, :] = weight[input[…], :], all contiguous; a row whose index is out of range is left as it was.
struct State {
    size_t count = 1, rows, bytes; // indices; of the table; of one row
    infiniDtype_t index_dtype;

    static Status create(const Call &call, State &state, size_t &) {
        for (size_t axis = 0; axis < call.rank(T::input); axis++) {
            state.count *= call.dim(T::input, axis);
        }
        state.rows = call.dim(T::weight, 0);
        state.bytes = call.dim(T::weight, 1) * element_size(call.dtype(T::weight));
        state.index_dtype = call.dtype(T::input);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        return visit_integer(index_dtype, [&](auto tag) {
            using I = typename decltype(tag)::type;
            char *output = run.data<char>(T::output);
            const char *weight = run.data<char>(T::weight);
            const I *indices = run.data<I>(T::input);
            parallel_for(bytes ? count : 0, grain_for(2 * bytes), [&](size_t begin, size_t end) {
                for (size_t i = begin; i < end; i++) {
                    if (indices[i] >= 0 && uint64_t(indices[i]) < rows) {
                        std::memcpy(output + i * bytes, weight + size_t(indices[i]) * bytes, bytes);
                    }
                }
            });
            return INFINI_STATUS_SUCCESS;
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::embedding::op, schema::embedding::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
