#include <algorithm>
#include <cmath>
#include <functional>

#include "sampling.h"
#include "strided.h"

#include "infiniop/schema/topk.h"

namespace infiniop::cpu {
namespace {

using T = schema::topk::T;
using A = schema::topk::A;

// A value and its index as one number: larger is better, and of equal values the lower index. NaN is the largest value.
uint64_t rank_of(float value, size_t index, bool largest) {
    const uint32_t key = value != value ? UINT32_MAX : order_key(value);
    return uint64_t(largest ? key : ~key) << 32 | uint32_t(~uint32_t(index));
}
uint32_t index_of(uint64_t rank) { return ~uint32_t(rank); }
float value_of(uint64_t rank, bool largest) {
    const uint32_t key = uint32_t(rank >> 32);
    return value_of_key<float>(largest ? key : ~key);
}

// The best k of what was offered, in a buffer with room for more than k: thinned out whenever it is full.
class Best {
public:
    // `least`: a rank below those of at least k of what will be offered; 0 when none is known.
    Best(uint64_t *buffer, size_t room, size_t k, uint64_t least)
        : buffer_(buffer), room_(room), k_(k), least_(least) {}

    uint64_t least() const { return least_; } // what is not above cannot be among the best

    void offer(uint64_t rank) {
        if (rank > least_) {
            buffer_[size_++] = rank;
            if (size_ == room_) {
                thin();
            }
        }
    }

    const uint64_t *finish(bool sorted) {
        thin();
        if (sorted) {
            std::sort(buffer_, buffer_ + size_, std::greater<>());
        }
        return buffer_;
    }

private:
    void thin() {
        if (size_ > k_) {
            std::nth_element(buffer_, buffer_ + (k_ - 1), buffer_ + size_, std::greater<>());
            size_ = k_;
            least_ = buffer_[k_ - 1];
        }
    }

    uint64_t *buffer_;
    size_t room_, k_, size_ = 0;
    uint64_t least_;
};

struct State {
    Nest<3> nest; // values, indices, input, without the axis
    size_t n, k, room, slots;
    ptrdiff_t values_stride, indices_stride, input_stride; // along the axis
    bool largest, sorted;
    infiniDtype_t dtype, index_dtype;

    static Status create(const Call &call, State &state, size_t &workspace) {
        const size_t axis = size_t(call.integer(A::dim));
        const bool scalar = call.rank(T::input) == 0;
        state.n = scalar ? 1 : call.dim(T::input, axis);
        state.k = size_t(call.integer(A::k));
        state.values_stride = scalar ? 1 : call.stride(T::values_output, axis);
        state.indices_stride = scalar ? 1 : call.stride(T::indices_output, axis);
        state.input_stride = scalar ? 1 : call.stride(T::input, axis);
        state.largest = call.integer(A::largest) != 0;
        state.sorted = call.integer(A::sorted) != 0;
        state.dtype = call.dtype(T::input);
        state.index_dtype = call.dtype(T::indices_output);
        if (state.n > UINT32_MAX) {
            return fail(INFINI_STATUS_NOT_IMPLEMENTED, call.op(), "input", "at most 2^32 - 1 elements along dim",
                        "more");
        }
        const Status status = Nest<3>::of(call, {T::values_output, T::indices_output, T::input}, state.nest, axis);
        state.slots = std::min(state.nest.count, thread_count());
        state.room = std::min(2 * state.k + 256, state.n + 1);
        workspace = state.slots * state.room * sizeof(uint64_t) + alignof(uint64_t);
        return status;
    }

    Status calculate(const Run &run) const {
        if (k == 0 || nest.count == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        return visit_float(dtype, [&](auto tag) {
            using X = typename decltype(tag)::type;
            if (index_dtype == INFINI_DTYPE_I64) {
                calculate_as<X, int64_t>(run);
            } else {
                calculate_as<X, int32_t>(run);
            }
            return INFINI_STATUS_SUCCESS;
        });
    }

    // Every slot of the workspace has its share of the rows.
    template <class X, class I> void calculate_as(const Run &run) const {
        X *values = run.data<X>(T::values_output);
        I *indices = run.data<I>(T::indices_output);
        const X *input = run.data<X>(T::input);
        const uintptr_t unaligned = reinterpret_cast<uintptr_t>(run.workspace<char>());
        const uintptr_t mask = alignof(uint64_t) - 1;
        uint64_t *buffers = reinterpret_cast<uint64_t *>((unaligned + mask) & ~mask);
        const size_t per_slot = nest.count / slots;
        parallel_for(slots, 1 + 8192 / (per_slot * n + 1), [&](size_t begin, size_t end) {
            for (size_t slot = begin; slot < end; slot++) {
                const size_t first = nest.count * slot / slots, last = nest.count * (slot + 1) / slots;
                Odometer<3> position(nest, nest.rank, first);
                for (size_t i = first; i < last; i++, position.next()) {
                    row(values + position.offset[0], indices + position.offset[1], input + position.offset[2],
                        buffers + slot * room);
                }
            }
        });
    }

    template <class X, class I> void row(X *values, I *indices, const X *input, uint64_t *buffer) const {
        if (input_stride == 1) {
            choose(values, indices, input, buffer, Unit{});
        } else {
            choose(values, indices, input, buffer, input_stride);
        }
    }

    template <class X, class I, class S>
    void choose(X *values, I *indices, const X *input, uint64_t *buffer, S stride) const {
        Best best(buffer, room, k, least_rank(input, stride));
        collect(best, input, stride);
        const uint64_t *ranks = best.finish(sorted);
        for (size_t i = 0; i < k; i++) {
            const size_t index = index_of(ranks[i]);
            values[ptrdiff_t(i) * values_stride] = input[ptrdiff_t(index) * input_stride];
            indices[ptrdiff_t(i) * indices_stride] = I(index);
        }
    }

    // Below the ranks of the k best, by the best of each group of elements: k groups reach the k-th best of those.
    template <class X, class S> uint64_t least_rank(const X *input, S stride) const {
        constexpr size_t most = 1024, L = lanes<X>;
        const size_t group = std::max(4 * L, (n + most * L - 1) / (most * L) * L), groups = n / group;
        if (groups < 2 * k || n < 4096) {
            return 0;
        }
        const float worst = largest ? -std::numeric_limits<float>::infinity() : std::numeric_limits<float>::infinity();
        float bests[most];
        for (size_t g = 0; g < groups; g++) {
            vf m = splat<vf>(worst);
            for (size_t i = g * group; i < (g + 1) * group; i += L) {
                const vf x = load_strided(input + ptrdiff_t(i) * ptrdiff_t(stride), stride, All{});
                m = largest ? max(x, m) : min(x, m); // in this order NaN is passed over
            }
            bests[g] = largest ? max_lane(m) : -max_lane(-m);
        }
        float *kth = bests + (k - 1);
        if (largest) {
            std::nth_element(bests, kth, bests + groups, std::greater<>());
        } else {
            std::nth_element(bests, kth, bests + groups);
        }
        return *kth == worst ? 0 : rank_of(std::nextafter(*kth, worst), 0, largest);
    }

    // Vectors in which nothing beats the worst of the best so far are passed over without a look at their elements.
    template <class X, class S> void collect(Best &best, const X *input, S stride) const {
        constexpr size_t L = lanes<X>;
        size_t i = 0;
        for (; i + L <= n; i += L) {
            const vf x = load_strided(input + ptrdiff_t(i) * ptrdiff_t(stride), stride, All{});
            const uint64_t least = best.least();
            const float bar = value_of(least, largest);
            if (least && !any(largest ? ~(x <= bar) : ~(x >= bar))) { // NaN is looked at: its rank decides
                continue;
            }
            alignas(64) float v[L];
            store(v, x);
            for (size_t j = 0; j < L; j++) {
                best.offer(rank_of(v[j], i + j, largest));
            }
        }
        for (; i < n; i++) {
            best.offer(rank_of(get(input[ptrdiff_t(i) * ptrdiff_t(stride)]), i, largest));
        }
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::topk::op, schema::topk::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
