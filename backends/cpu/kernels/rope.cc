#include "pool.h"
#include "simd.h"

#include "infiniop/schema/rope.h"

namespace infiniop::cpu {
namespace {

using T = schema::rope::T;
using A = schema::rope::A;

enum Algo : int64_t { gpt_j = 0, gpt_neox = 1 };

template <class V> struct Pair {
    V first, second;
};

template <class V> Pair<V> rotate(V p, V q, V sin, V cos) { return {p * cos - q * sin, p * sin + q * cos}; }

// The even and the odd lanes of two neighbouring vectors.
template <class V, class M = decltype(V{} < V{})> Pair<V> split_pairs(V low, V high) {
    constexpr size_t n = sizeof(V) / sizeof(low[0]);
    M even, odd;
    for (size_t i = 0; i < n; i++) {
        even[i] = 2 * i;
        odd[i] = 2 * i + 1;
    }
    return {__builtin_shuffle(low, high, even), __builtin_shuffle(low, high, odd)};
}

// The inverse of split_pairs.
template <class V, class M = decltype(V{} < V{})> Pair<V> join_pairs(V even, V odd) {
    constexpr size_t n = sizeof(V) / sizeof(even[0]);
    M low, high;
    for (size_t i = 0; i < n; i++) {
        low[i] = i / 2 + i % 2 * n;
        high[i] = low[i] + n / 2;
    }
    return {__builtin_shuffle(even, odd, low), __builtin_shuffle(even, odd, high)};
}

// Pairs are (i, i + half).
template <class X> void rotate_halves(X *y, const X *x, const X *sin, const X *cos, size_t half) {
    for_vectors<lanes<X>>(half, [&](size_t i, auto part) {
        const auto turned =
            rotate(load(x + i, part), load(x + half + i, part), load(sin + i, part), load(cos + i, part));
        store(y + i, turned.first, part);
        store(y + half + i, turned.second, part);
    });
}

// Pairs are (2i, 2i + 1).
template <class X> void rotate_neighbours(X *y, const X *x, const X *sin, const X *cos, size_t half) {
    constexpr size_t L = lanes<X>;
    const auto turn = [](X *to, const X *from, auto s, auto c) {
        const auto p = split_pairs(load(from), load(from + L));
        const auto turned = rotate(p.first, p.second, s, c);
        const auto joined = join_pairs(turned.first, turned.second);
        store(to, joined.first);
        store(to + L, joined.second);
    };
    size_t i = 0;
    for (; i + L <= half; i += L) {
        turn(y + 2 * i, x + 2 * i, load(sin + i), load(cos + i));
    }
    if (i < half) {
        X rest[2 * L] = {};
        std::memcpy(rest, x + 2 * i, 2 * (half - i) * sizeof(X));
        turn(rest, rest, load(sin + i, First{half - i}), load(cos + i, First{half - i}));
        std::memcpy(y + 2 * i, rest, 2 * (half - i) * sizeof(X));
    }
}

struct State {
    size_t batch, tokens, heads, half, positions; // half: table columns; positions: table rows
    ptrdiff_t y_strides[3], x_strides[3];         // batch, token, head
    ptrdiff_t position_strides[2];                // batch (0: shared), token
    int64_t algo;
    infiniDtype_t dtype, position_dtype;

    static Status create(const Call &call, State &state, size_t &) {
        const size_t rank = call.rank(T::y), first = 4 - rank;
        state.batch = rank == 4 ? call.dim(T::y, 0) : 1;
        state.tokens = call.dim(T::y, rank - 3);
        state.heads = call.dim(T::y, rank - 2);
        state.positions = call.dim(T::sin_table, 0);
        state.half = call.dim(T::sin_table, 1);
        state.y_strides[0] = state.x_strides[0] = 0;
        for (size_t axis = 0; axis + 1 < rank; axis++) {
            state.y_strides[first + axis] = call.stride(T::y, axis);
            state.x_strides[first + axis] = call.stride(T::x, axis);
        }
        const bool per_batch = call.rank(T::pos_ids) == 2;
        state.position_strides[0] = per_batch ? call.stride(T::pos_ids, 0) : 0;
        state.position_strides[1] = call.stride(T::pos_ids, per_batch ? 1 : 0);
        state.algo = call.integer(A::algo);
        state.dtype = call.dtype(T::y);
        state.position_dtype = call.dtype(T::pos_ids);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        if (batch * tokens * heads * half == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        return visit_integer(position_dtype, [&](auto integer) {
            using I = typename decltype(integer)::type;
            const I *ids = run.data<I>(T::pos_ids);
            if (const Status status = check(ids); status != INFINI_STATUS_SUCCESS) {
                return status;
            }
            return visit_float64(dtype, [&](auto tag) {
                calculate_as<typename decltype(tag)::type>(run, ids);
                return INFINI_STATUS_SUCCESS;
            });
        });
    }

    // Of the i-th token, batches first.
    template <class I> I position(const I *ids, size_t i) const {
        return ids[ptrdiff_t(i / tokens) * position_strides[0] + ptrdiff_t(i % tokens) * position_strides[1]];
    }

    template <class I> Status check(const I *ids) const {
        const size_t count = position_strides[0] ? batch * tokens : tokens;
        for (size_t i = 0; i < count; i++) {
            const I id = position(ids, i);
            if (id < 0 || uint64_t(id) >= positions) {
                return fail(INFINI_STATUS_BAD_PARAM, schema::rope::op, "pos_ids",
                            Text("positions below %zu", positions),
                            id < 0 ? Text("%lld at [%zu]", (long long)id, i)
                                   : Text("%llu at [%zu]", (unsigned long long)id, i));
            }
        }
        return INFINI_STATUS_SUCCESS;
    }

    template <class X, class I> void calculate_as(const Run &run, const I *ids) const {
        X *y = run.data<X>(T::y);
        const X *x = run.data<X>(T::x), *sin = run.data<X>(T::sin_table), *cos = run.data<X>(T::cos_table);
        parallel_for(batch * tokens, grain_for(6 * heads * half * sizeof(X)), [&](size_t begin, size_t end) {
            for (size_t i = begin; i < end; i++) {
                const ptrdiff_t b = ptrdiff_t(i / tokens), t = ptrdiff_t(i % tokens);
                const size_t row = size_t(position(ids, i)) * half;
                token(y + b * y_strides[0] + t * y_strides[1], x + b * x_strides[0] + t * x_strides[1], sin + row,
                      cos + row);
            }
        });
    }

    template <class X> void token(X *y, const X *x, const X *sin, const X *cos) const {
        for (size_t h = 0; h < heads; h++) {
            X *to = y + ptrdiff_t(h) * y_strides[2];
            const X *from = x + ptrdiff_t(h) * x_strides[2];
            if (algo == gpt_neox) {
                rotate_halves(to, from, sin, cos, half);
            } else {
                rotate_neighbours(to, from, sin, cos, half);
            }
        }
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::rope::op, schema::rope::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
