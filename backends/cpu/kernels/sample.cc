#include "pool.h"
#include "sampling.h"

#include "infiniop/schema/sample.h"

namespace infiniop::cpu {
namespace {

using T = schema::sample::T;

struct Parameters {
    float temperature;
    int32_t top_k;
    float top_p, min_p;
    uint64_t seed, position;
};

// Which tokens the filters keep: those above a bound, the first few equal to it, and of these the likely enough ones.
template <class C> struct Kept {
    C bound = -std::numeric_limits<C>::infinity();
    size_t of_bound = SIZE_MAX;
    C least_weight = 0;

    bool all() const { return bound == -std::numeric_limits<C>::infinity() && least_weight == 0; }

    // Sets the weights of the others to 0; `seen` counts the values equal to the bound so far.
    void mask(const C *values, C *weights, size_t n, size_t &seen) const {
        using V = vector_t<C>;
        decltype(V{} < V{}) equal = {};
        for_vectors<lanes<C>>(n, [&](size_t i, auto part) {
            const V v = load(values + i, part), w = load(weights + i, part);
            store(weights + i, (v >= bound) & (w >= least_weight) ? w : V{}, part);
            equal |= keep(v == bound, part, decltype(equal){});
        });
        for (size_t i = 0; any(equal) && i < n; i++) {
            if (values[i] == bound && seen++ >= of_bound) {
                weights[i] = 0;
            }
        }
    }
};

// The same sum, block by block, for the total and for the search.
template <class C> double block_sum(const C *weights, size_t n) {
    return sum_over<C>(n, [&](size_t i, auto part) { return load(weights + i, part); });
}

// Calls f(first, weights, n, their sum) for blocks of kept weights, until f returns false.
template <class X, class C, class F> void kept_blocks(const LogitRow<X> &row, const Kept<C> &kept, F &&f) {
    size_t seen = 0;
    bool more = true;
    const auto block = [&](size_t first, const C *values, C *weights, size_t n) {
        if (more) {
            if (!kept.all()) {
                kept.mask(values, weights, n, seen);
            }
            more = f(first, static_cast<const C *>(weights), n, block_sum(weights, n));
        }
    };
    row.weights(block, kept.bound);
}

template <class X, class C> double kept_mass(const LogitRow<X> &row, const Kept<C> &kept) {
    double total = 0;
    kept_blocks(row, kept, [&](size_t, const C *, size_t, double sum) {
        total += sum;
        return true;
    });
    return total;
}

// In the order of transformers: top-k (with all that equal the k-th), top-p of what is left, min-p.
template <class X> Kept<compute_t<X>> filter(const LogitRow<X> &row, const Parameters &p) {
    using C = compute_t<X>;
    Kept<C> kept;
    kept.least_weight = p.min_p > 0 ? C(p.min_p) : C(0);
    const bool top_k = p.top_k > 0 && size_t(p.top_k) < row.n, top_p = p.top_p < 1;
    if (!top_k && !top_p) {
        return kept;
    }
    const Ranking<X> ranking(row);
    double mass_left = top_k ? 0.0 : row.total_weight();
    if (top_k) {
        const Cut<C> cut = ranking.cut([&](size_t count, double) { return count >= size_t(p.top_k); });
        kept.bound = value_of_key<C>(cut.key);
        mass_left = cut.mass_above + double(cut.count) * cut.weight;
    }
    if (top_p) {
        const double wanted = double(p.top_p) * mass_left;
        const Cut<C> cut = ranking.cut([&](size_t, double mass) { return mass >= wanted; });
        kept.bound = value_of_key<C>(cut.key);
        kept.of_bound = cut.needed(wanted);
    }
    return kept;
}

// The first token in vocabulary order at which the kept mass exceeds u times all of it.
template <class X> size_t draw(const X *logits, size_t n, const Parameters &p) {
    using C = compute_t<X>;
    LogitRow<X> row(logits, n);
    if (p.temperature == 0) {
        return row.argmax();
    }
    row.temperature = p.temperature;
    const Kept<C> kept = filter(row, p);
    const double u = double(philox(p.seed, p.position) >> 8) * 0x1p-24;
    const double target = u * kept_mass(row, kept);
    double mass = 0;
    size_t token = SIZE_MAX;
    kept_blocks(row, kept, [&](size_t first, const C *weights, size_t count, double sum) {
        if (mass + sum <= target) {
            mass += sum;
            return true;
        }
        for (size_t i = 0; i < count; i++) {
            if (weights[i] > 0) {
                token = first + i;
                mass += double(weights[i]);
                if (mass > target) {
                    break;
                }
            }
        }
        return false;
    });
    return token == SIZE_MAX ? row.argmax() : token;
}

struct State {
    size_t rows, n;
    ptrdiff_t strides[T::count]; // along the requests
    infiniDtype_t dtype, token_dtype;

    static Status create(const Call &call, State &state, size_t &) {
        state.rows = call.dim(T::logits, 0);
        state.n = call.dim(T::logits, 1);
        for (size_t i = 0; i < T::count; i++) {
            state.strides[i] = call.stride(i, 0);
        }
        state.dtype = call.dtype(T::logits);
        state.token_dtype = call.dtype(T::tokens);
        return INFINI_STATUS_SUCCESS;
    }

    template <class V> V value(const Run &run, size_t tensor, size_t row) const {
        return run.data<V>(tensor)[ptrdiff_t(row) * strides[tensor]];
    }

    Parameters parameters(const Run &run, size_t row) const {
        return {value<float>(run, T::temperature, row), value<int32_t>(run, T::top_k, row),
                value<float>(run, T::top_p, row),       value<float>(run, T::min_p, row),
                value<uint64_t>(run, T::seed, row),     value<uint64_t>(run, T::position, row)};
    }

    // Every row of one parameter.
    template <class Legal>
    Status check(const Run &run, size_t tensor, const char *name, const char *expected, Legal &&legal) const {
        for (size_t i = 0; i < rows; i++) {
            const float v = value<float>(run, tensor, i);
            if (!legal(v)) {
                return fail(INFINI_STATUS_BAD_PARAM, schema::sample::op, name, expected,
                            Text("%g at [%zu]", double(v), i));
            }
        }
        return INFINI_STATUS_SUCCESS;
    }

    Status check(const Run &run) const {
        constexpr float infinity = std::numeric_limits<float>::infinity();
        Status status = check(run, T::temperature, "temperature", "finite values from 0 upwards",
                              [](float v) { return v >= 0 && v < infinity; });
        if (status == INFINI_STATUS_SUCCESS) {
            status = check(run, T::top_p, "top_p", "values above 0", [](float v) { return v > 0; });
        }
        if (status == INFINI_STATUS_SUCCESS) {
            status = check(run, T::min_p, "min_p", "values up to 1", [](float v) { return v <= 1; });
        }
        return status;
    }

    Status calculate(const Run &run) const {
        if (rows == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        if (const Status status = check(run); status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        return visit_float(dtype, [&](auto tag) {
            using X = typename decltype(tag)::type;
            const X *logits = run.data<X>(T::logits);
            parallel_for(rows, grain_for(64 * n), [&](size_t begin, size_t end) {
                for (size_t i = begin; i < end; i++) {
                    const size_t token = draw(logits + ptrdiff_t(i) * strides[T::logits], n, parameters(run, i));
                    const ptrdiff_t to = ptrdiff_t(i) * strides[T::tokens];
                    if (token_dtype == INFINI_DTYPE_I32) {
                        run.data<int32_t>(T::tokens)[to] = int32_t(token);
                    } else {
                        run.data<int64_t>(T::tokens)[to] = int64_t(token);
                    }
                }
            });
            return INFINI_STATUS_SUCCESS;
        });
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::sample::op, schema::sample::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::cpu
