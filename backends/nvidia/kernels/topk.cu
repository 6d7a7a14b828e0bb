// topk: a block per line. A short line is sorted whole; of a long one the k-th key is found by radix selection, what
// reaches it is gathered, and only that is sorted.
#include "../layout.h"
#include "select.cuh"

#include "infiniop/schema/topk.h"

namespace infiniop::nvidia {
namespace {

using T = schema::topk::T;
using A = schema::topk::A;

constexpr int64_t sorted_in_shared = 2048; // entries

// What is sorted, the largest first: the key above, the complement of the index below, so that the lower index wins.
using Entry = unsigned long long;

struct Parameters {
    Nest<3> lines; // values, indices, input
    void *values, *indices;
    const void *input;
    Entry *workspace; // `room` entries per line, where they do not fit in shared memory
    int64_t n, k, room, value_step, index_step, input_step;
    bool smallest, sorted, index_64;
};

template <class X> __device__ __forceinline__ Entry entry_of(X element, int64_t i, bool smallest) {
    const uint64_t key = key_of(element);
    const uint64_t order = smallest ? ~key & (~uint64_t(0) >> (64 - key_bits<X>)) : key;
    return order << 32 | uint32_t(~uint32_t(i));
}

// Descending, by the whole block, which meets before and after; `room` is a power of two (Batcher 1968, bitonic).
__device__ void sort_entries(Entry *entries, int64_t room) {
    for (int64_t size = 2; size <= room; size *= 2) {
        for (int64_t step = size / 2; step > 0; step /= 2) {
            __syncthreads();
            for (int64_t pair = threadIdx.x; pair < room / 2; pair += blockDim.x) {
                const int64_t low = 2 * step * (pair / step) + pair % step, high = low + step;
                const Entry a = entries[low], b = entries[high];
                if ((a < b) == ((low & size) == 0)) {
                    entries[low] = b;
                    entries[high] = a;
                }
            }
        }
    }
    __syncthreads();
}

// Gathers the k first entries of a long line, in any order.
template <class X> __device__ void gather(const Row<X> &row, Scratch &scratch, const Parameters &p, Entry *entries) {
    __shared__ unsigned count;
    // The k-th of the smallest is the (n - k + 1)-th of the largest; of equal ones the lower index is chosen.
    const Amount target = p.smallest ? Amount(p.n - p.k + 1) : Amount(p.k);
    const uint64_t reached = p.smallest ? 0 : reached_by<X>(p.k, scratch, own_maximum(row));
    Amount above;
    const uint64_t key =
        select_key(row, scratch, target, above, [=](int64_t, X, uint64_t k) { return Amount(k >= reached); });
    const auto better = [&](uint64_t other) { return p.smallest ? other < key : other > key; };
    const Amount taken = sum_amounts(row, [&](int64_t, X, uint64_t other) { return Amount(better(other)); });
    const int64_t last = select_index(p.n, scratch, Amount(p.k) - taken,
                                      [&](int64_t i) { return Amount(key_of(row.x[i * row.step]) == key); });
    if (threadIdx.x == 0) {
        count = 0;
    }
    __syncthreads();
    row.for_each([&](int64_t i, X element) {
        const uint64_t other = key_of(element);
        if (better(other) || (other == key && i <= last)) {
            entries[atomicAdd(&count, 1u)] = entry_of(element, i, p.smallest);
        }
    });
    for (int64_t i = p.k + threadIdx.x; i < p.room; i += blockDim.x) {
        entries[i] = 0;
    }
    __syncthreads();
}

template <class X, bool Short> __global__ void __launch_bounds__(1024) topk_kernel(Parameters p) {
    int64_t offset[3];
    p.lines.locate(int64_t(blockIdx.x), p.lines.rank, offset);
    const Row<X> row = {static_cast<const X *>(p.input) + offset[2], p.n, p.input_step};
    Entry *entries = p.room <= sorted_in_shared ? shared_memory<Entry>() : p.workspace + int64_t(blockIdx.x) * p.room;
    if constexpr (Short) {
        for (int64_t i = threadIdx.x; i < p.room; i += blockDim.x) {
            entries[i] = i < p.n ? entry_of(row.x[i * row.step], i, p.smallest) : 0;
        }
        sort_entries(entries, p.room);
    } else {
        __shared__ Scratch scratch;
        gather(row, scratch, p, entries);
        if (p.sorted) {
            sort_entries(entries, p.room);
        }
    }
    X *values = static_cast<X *>(p.values) + offset[0];
    for (int64_t j = threadIdx.x; j < p.k; j += blockDim.x) {
        const int64_t i = uint32_t(~uint32_t(entries[j]));
        values[j * p.value_step] = row.x[i * row.step];
        if (p.index_64) {
            static_cast<int64_t *>(p.indices)[offset[1] + j * p.index_step] = i;
        } else {
            static_cast<int32_t *>(p.indices)[offset[1] + j * p.index_step] = int32_t(i);
        }
    }
}

int64_t power_of_two(int64_t n) {
    int64_t power = 2;
    while (power < n) {
        power *= 2;
    }
    return power;
}

struct State {
    Parameters p;
    infiniDtype_t dtype;

    bool is_short() const { return p.n <= sorted_in_shared; }

    static Status create(const Call &call, State &state, size_t &workspace) {
        Parameters &p = state.p;
        const size_t axis = size_t(call.integer(A::dim));
        state.dtype = call.dtype(T::input);
        p.n = int64_t(call.dim(T::input, axis));
        p.k = call.integer(A::k);
        p.value_step = call.stride(T::values_output, axis);
        p.index_step = call.stride(T::indices_output, axis);
        p.input_step = call.stride(T::input, axis);
        p.smallest = call.integer(A::largest) == 0;
        p.sorted = call.integer(A::sorted) != 0;
        p.index_64 = call.dtype(T::indices_output) == INFINI_DTYPE_I64;
        if (p.n >= int64_t(1) << 32) {
            return fail(INFINI_STATUS_NOT_IMPLEMENTED, call.op(), "input", "fewer than 2^32 entries along dim",
                        Text("%lld", static_cast<long long>(p.n)));
        }
        p.room = power_of_two(state.is_short() ? p.n : p.k);
        // The lines are those of all axes but `dim`; outputs have k entries along it, the nest does not look there.
        const Status status = nest_of<3>(call, {T::values_output, T::indices_output, T::input}, p.lines, 0,
                                         call.rank(T::input), false, axis);
        workspace = p.room <= sorted_in_shared ? 0 : size_t(p.lines.count * p.room) * sizeof(Entry);
        return status;
    }

    Status calculate(const Run &run) const {
        if (p.lines.count == 0 || p.k == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        Parameters q = p;
        q.values = run.data<void>(T::values_output);
        q.indices = run.data<void>(T::indices_output);
        q.input = run.data<void>(T::input);
        q.workspace = run.workspace<Entry>();
        const size_t shared = p.room <= sorted_in_shared ? size_t(p.room) * sizeof(Entry) : 0;
        const dim3 grid(unsigned(p.lines.count)), block(unsigned(plan_row_threads(p.n, is_short() ? 2 : 4, 1024)));
        return visit_float(dtype, [&](auto tag) {
            using X = typename decltype(tag)::type;
            return launch(is_short() ? topk_kernel<X, true> : topk_kernel<X, false>, grid, block, shared, run.stream(),
                          q);
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::topk::op, schema::topk::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
