// sample: one block per request; thresholds by radix selection, the draw in vocabulary order.
#include "../checked.h"
#include "select.cuh"

#include "infiniop/schema/sample.h"

#include <cfloat>

namespace infiniop::nvidia {
namespace {

using T = schema::sample::T;

struct Parameters {
    void *tokens;
    const void *logits;
    const float *temperature, *top_p, *min_p;
    const int32_t *top_k;
    const int64_t *seed, *position;
    int64_t vocab, row_stride, strides[T::count]; // strides of one-axis tensors, by tensor
    bool tokens_64;
};

// The first word of Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011).
__device__ uint32_t philox(uint64_t seed, uint64_t position) {
    uint32_t c[4] = {uint32_t(position), uint32_t(position >> 32), 0, 0};
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t left = uint64_t(0xD2511F53u) * c[0], right = uint64_t(0xCD9E8D57u) * c[2];
        const uint32_t next[4] = {uint32_t(right >> 32) ^ c[1] ^ k0, uint32_t(right), uint32_t(left >> 32) ^ c[3] ^ k1,
                                  uint32_t(left)};
        for (int i = 0; i < 4; i++) {
            c[i] = next[i];
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c[0];
}

// The token; every thread of the block gets it.
template <class X>
__device__ int64_t draw(const Row<X> &row, Scratch &scratch, float temperature, int64_t top_k, float top_p, float min_p,
                        uint64_t seed, uint64_t position) {
    uint64_t largest;
    const Amount own = own_maximum(row);
    const int64_t best = arg_max(row, own, largest);
    const float maximum = widen(value_of<X>(largest));
    if (temperature == 0 || !(maximum - maximum == 0)) {
        return best;
    }
    const Weigher<X> weigher(maximum, temperature, row.n);
    // What is kept: keys above `key`, and those equal to it up to index `last`.
    uint64_t key = 0;
    int64_t last = row.n;
    if (top_k > 0 && top_k < row.n) {
        Amount before;
        const uint64_t reached = reached_by<X>(top_k, scratch, own);
        key = select_key(row, scratch, Amount(top_k), before,
                         [=](int64_t, X, uint64_t k) { return Amount(k >= reached); });
    }
    if (top_p < 1) {
        const auto amount = [&](int64_t, X element, uint64_t k) { return k >= key ? weigher.amount(element) : 0; };
        const Amount target = share_of(double(top_p), sum_amounts(row, amount));
        Amount before;
        key = select_key(row, scratch, target, before, amount);
        const Amount each = max(weigher.amount(value_of<X>(key)), Amount(1)); // equal keys weigh the same
        last = select_index(row.n, scratch, (target - before + each - 1) / each,
                            [&](int64_t i) { return Amount(key_of(row.x[i * row.step]) == key); });
    }
    const auto kept = [&](int64_t i, X element, uint64_t k) -> Amount {
        if (k < key || (k == key && i > last) || !(weigher.weight(element) >= min_p)) {
            return 0;
        }
        return weigher.amount(element);
    };
    const Amount all = sum_amounts(row, kept);
    const Amount u = philox(seed, position) >> 8; // of 2^24
    const Amount target = (all >> 24) * u + ((all & 0xffffff) * u >> 24) + 1;
    return select_index(row.n, scratch, min(target, all), [&](int64_t i) {
        const X element = row.x[i * row.step];
        return kept(i, element, key_of(element));
    });
}

template <class X> __global__ void __launch_bounds__(1024) sample_kernel(Parameters p) {
    __shared__ Scratch scratch;
    const int64_t r = int64_t(blockIdx.x);
    const float temperature = p.temperature[r * p.strides[T::temperature]];
    const float top_p = p.top_p[r * p.strides[T::top_p]], min_p = p.min_p[r * p.strides[T::min_p]];
    const bool legal = temperature >= 0 && temperature <= FLT_MAX && top_p > 0 && min_p <= 1;
    int64_t token = -1;
    if (legal) {
        const Row<X> row = {static_cast<const X *>(p.logits) + r * p.row_stride, p.vocab, 1};
        token = draw(row, scratch, temperature, p.top_k[r * p.strides[T::top_k]], top_p, min_p,
                     uint64_t(p.seed[r * p.strides[T::seed]]), uint64_t(p.position[r * p.strides[T::position]]));
    }
    if (threadIdx.x == 0) {
        const int64_t at = r * p.strides[T::tokens];
        if (p.tokens_64) {
            static_cast<int64_t *>(p.tokens)[at] = token;
        } else {
            static_cast<int32_t *>(p.tokens)[at] = int32_t(token);
        }
    }
}

struct State {
    Parameters p;
    int64_t requests;
    infiniDtype_t dtype;

    static Status create(const Call &call, State &state, size_t &) {
        Parameters &p = state.p;
        state.requests = int64_t(call.dim(T::logits, 0));
        state.dtype = call.dtype(T::logits);
        p.vocab = int64_t(call.dim(T::logits, 1));
        p.row_stride = call.stride(T::logits, 0);
        for (size_t t = 0; t < size_t(T::count); t++) {
            p.strides[t] = call.stride(t, 0);
        }
        p.tokens_64 = call.dtype(T::tokens) == INFINI_DTYPE_I64;
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        if (requests == 0) {
            return INFINI_STATUS_SUCCESS;
        }
        Parameters q = p;
        q.tokens = run.data<void>(T::tokens);
        q.logits = run.data<void>(T::logits);
        q.temperature = run.data<float>(T::temperature);
        q.top_k = run.data<int32_t>(T::top_k);
        q.top_p = run.data<float>(T::top_p);
        q.min_p = run.data<float>(T::min_p);
        q.seed = run.data<int64_t>(T::seed);
        q.position = run.data<int64_t>(T::position);
        if (checked()) {
            const Status status = check_parameters(q, run.stream());
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        const dim3 block(unsigned(plan_row_threads(p.vocab, 8, 1024)));
        return visit_float(dtype, [&](auto tag) {
            return launch(sample_kernel<typename decltype(tag)::type>, dim3(unsigned(requests)), block, 0, run.stream(),
                          q);
        });
    }

    Status check_parameters(const Parameters &q, infinirtStream_t stream) const {
        const auto values = [&](const char *name, const float *data, size_t tensor) {
            return Values{schema::sample::op, name, data, INFINI_DTYPE_F32, requests, 1, p.strides[tensor], 0};
        };
        Status status = check_values(values("temperature", q.temperature, T::temperature), 0.0, double(FLT_MAX),
                                     "finite values from 0 upwards", stream);
        if (status == INFINI_STATUS_SUCCESS) {
            status = check_values(values("top_p", q.top_p, T::top_p), DBL_MIN, HUGE_VAL, "values above 0", stream);
        }
        return status != INFINI_STATUS_SUCCESS
                   ? status
                   : check_values(values("min_p", q.min_p, T::min_p), -HUGE_VAL, 1.0, "values up to 1", stream);
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(schema::sample::op, schema::sample::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
