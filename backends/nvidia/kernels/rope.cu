// rope: a block per token; a thread turns the same pairs of several heads. What it turns is under way before the
// token's position, and with it the angles, are known.
#include "../checked.h"
#include "../device.cuh"
#include "../layout.h"
#include "integers.cuh"

#include "infiniop/schema/rope.h"

namespace infiniop::nvidia {
namespace {

using T = schema::rope::T;
using A = schema::rope::A;

enum Algorithm : int64_t { gpt_j = 0, gpt_neox = 1 };

struct Parameters {
    void *y;
    const void *x, *sin, *cos, *ids;
    infiniDtype_t id_dtype;
    int64_t tokens, heads, half, positions;
    int64_t y_strides[3], x_strides[3]; // batch, token, head
    int64_t id_strides[2];              // batch (0: shared), token
};

template <class C> __device__ __forceinline__ void rotate(C &p, C &q, C sin, C cos) {
    const C turned = p * cos - q * sin;
    q = p * sin + q * cos;
    p = turned;
}

constexpr int heads_at_once = 2; // of a thread

// L angles at a time. Pairs are (i, i + half) with Halves, else neighbours, which lie in 2 L elements.
template <class X, int L, bool Halves> __global__ void __launch_bounds__(256, 1) rope_kernel(Parameters p) {
    using C = compute_t<X>;
    const unsigned tokens = unsigned(p.tokens); // the grid is no larger than a grid can be
    const int64_t b = blockIdx.x / tokens, t = blockIdx.x % tokens;
    const int64_t position = integer_at(p.ids, p.id_dtype, b * p.id_strides[0] + t * p.id_strides[1]);
    X *y = static_cast<X *>(p.y) + b * p.y_strides[0] + t * p.y_strides[1];
    const X *x = static_cast<const X *>(p.x) + b * p.x_strides[0] + t * p.x_strides[1];
    const int heads = int(p.heads), half = int(p.half);
    for (int i = int(threadIdx.x) * L; i < half; i += int(blockDim.x) * L) {
        const int first = Halves ? i : 2 * i, second = Halves ? i + half : 2 * i + L;
        for (int h = int(threadIdx.y); h < heads; h += heads_at_once * int(blockDim.y)) {
            Pack<X, L> low[heads_at_once], high[heads_at_once];
#pragma unroll
            for (int u = 0; u < heads_at_once; u++) {
                const int next = h + u * int(blockDim.y); // beyond the last: its own again, which nobody else writes
                const X *from = x + (next < heads ? next : h) * p.x_strides[2];
                low[u] = load_pack<L>(from + first);
                high[u] = load_pack<L>(from + second);
            }
            if (position < 0 || position >= p.positions) {
                return;
            }
            C sin[L], cos[L];
            widen_pack(load_pack<L>(static_cast<const X *>(p.sin) + position * half + i), sin);
            widen_pack(load_pack<L>(static_cast<const X *>(p.cos) + position * half + i), cos);
#pragma unroll
            for (int u = 0; u < heads_at_once; u++) {
                C lows[L], highs[L];
                widen_pack(low[u], lows);
                widen_pack(high[u], highs);
#pragma unroll
                for (int k = 0; k < L; k++) {
                    // The k-th pair's elements, wherever they lie in the two packs.
                    C &pk = Halves ? lows[k] : 2 * k < L ? lows[2 * k % L] : highs[2 * k % L];
                    C &qk = Halves ? highs[k] : 2 * k + 1 < L ? lows[(2 * k + 1) % L] : highs[(2 * k + 1) % L];
                    rotate(pk, qk, sin[k], cos[k]);
                }
                if (h + u * int(blockDim.y) < heads) {
                    X *to = y + (h + u * int(blockDim.y)) * p.y_strides[2];
                    store_pack<L>(to + first, narrow_pack<X>(lows));
                    store_pack<L>(to + second, narrow_pack<X>(highs));
                }
            }
        }
    }
}

struct State {
    Parameters p;
    int64_t batch;
    bool halves;
    infiniDtype_t dtype;

    static Status create(const Call &call, State &state, size_t &) {
        Parameters &p = state.p;
        p = {};
        const size_t rank = call.rank(T::y), first = 4 - rank;
        state.batch = rank == 4 ? int64_t(call.dim(T::y, 0)) : 1;
        p.tokens = int64_t(call.dim(T::y, rank - 3));
        p.heads = int64_t(call.dim(T::y, rank - 2));
        p.positions = int64_t(call.dim(T::sin_table, 0));
        p.half = int64_t(call.dim(T::sin_table, 1));
        for (size_t axis = 0; axis + 1 < rank; axis++) {
            p.y_strides[first + axis] = call.stride(T::y, axis);
            p.x_strides[first + axis] = call.stride(T::x, axis);
        }
        const bool per_batch = call.rank(T::pos_ids) == 2;
        p.id_strides[0] = per_batch ? call.stride(T::pos_ids, 0) : 0;
        p.id_strides[1] = call.stride(T::pos_ids, per_batch ? 1 : 0);
        p.id_dtype = call.dtype(T::pos_ids);
        state.halves = call.integer(A::algo) == gpt_neox;
        state.dtype = call.dtype(T::y);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        if (batch * p.tokens * p.heads * p.half == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        Parameters q = p;
        q.y = run.data<void>(T::y);
        q.x = run.data<void>(T::x);
        q.sin = run.data<void>(T::sin_table);
        q.cos = run.data<void>(T::cos_table);
        q.ids = run.data<void>(T::pos_ids);
        if (checked()) {
            const int64_t rows = p.id_strides[0] ? batch : 1;
            const Status status = check_values(
                {schema::rope::op, "pos_ids", q.ids, p.id_dtype, p.tokens, rows, p.id_strides[1], p.id_strides[0]}, 0,
                p.positions - 1, run.stream());
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        return visit_float64(dtype, [&](auto tag) {
            using X = typename decltype(tag)::type;
            return in_packs(q, lanes_of<X>) ? go<X, lanes_of<X>>(q, run.stream()) : go<X, 1>(q, run.stream());
        });
    }

    static bool in_packs(const Parameters &q, int64_t lanes) {
        bool good = q.half % lanes == 0 && aligned(q.y) && aligned(q.x) && aligned(q.sin) && aligned(q.cos);
        for (int axis = 0; axis < 3; axis++) {
            good &= q.y_strides[axis] % lanes == 0 && q.x_strides[axis] % lanes == 0;
        }
        return good;
    }

    template <class X, int L> Status go(const Parameters &q, infinirtStream_t stream) const {
        unsigned x = 1, y = 1;
        while (x < 256 && int64_t(x) * L < q.half) {
            x *= 2;
        }
        while (x * y < 128 && heads_at_once * int64_t(y) < q.heads) {
            y *= 2;
        }
        return launch(halves ? rope_kernel<X, L, true> : rope_kernel<X, L, false>, dim3(unsigned(batch * q.tokens)),
                      dim3(x, y), 0, stream, q);
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::rope::op, schema::rope::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
