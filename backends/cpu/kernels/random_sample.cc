// random_sample and its batch form: one draw per row of logits.
#include "pool.h"
#include "sampling.h"

#include "infiniop/schema/random_sample.h"
#include "infiniop/schema/random_sample_batch.h"

namespace infiniop::cpu {
namespace {

struct Parameters {
    float random, topp;
    int topk;
    float temperature;

    bool argmax() const { return random == 0 || topp == 0 || topk == 1 || temperature == 0; }
};

Status check(const Parameters &p, const char *op, size_t row) {
    const auto bad = [&](const char *argument, const char *expected, double got) {
        return fail(INFINI_STATUS_BAD_PARAM, op, argument, expected, Text("%g at [%zu]", got, row));
    };
    if (!(p.random >= 0 && p.random <= 1)) {
        return bad("random_val", "values from 0 to 1", p.random);
    }
    if (!(p.topp >= 0)) {
        return bad("topp", "values from 0 upwards", p.topp);
    }
    if (p.topk == 0 && !p.argmax()) {
        return bad("topk", "values other than 0", p.topk);
    }
    if (!(p.temperature >= 0)) {
        return bad("temperature", "values from 0 upwards", p.temperature);
    }
    return INFINI_STATUS_SUCCESS;
}

// In descending order with prefix sums C: the first whose C reaches random · min(C of the top k, topp · C of all).
template <class T> size_t draw(const T *logits, size_t n, const Parameters &p) {
    LogitRow<T> row(logits, n);
    if (p.argmax()) {
        return row.argmax();
    }
    row.temperature = p.temperature;
    const Ranking<T> ranking(row);
    const double total = row.total_weight();
    double limit = p.topp < 1 ? double(p.topp) * total : total;
    if (p.topk > 0 && size_t(p.topk) < n) {
        const size_t k = size_t(p.topk);
        const auto cut = ranking.cut([&](size_t count, double) { return count >= k; });
        limit = std::min(limit, cut.mass_above + double(k - cut.count_above) * cut.weight);
    }
    const double target = double(p.random) * limit;
    const auto cut = ranking.cut([&](size_t, double mass) { return mass >= target; });
    return row.nth_equal(value_of_key<compute_t<T>>(cut.key), cut.needed(target));
}

void store_integer(void *result, infiniDtype_t dtype, size_t index, size_t value) {
    switch (element_size(dtype)) {
    case 1:
        static_cast<uint8_t *>(result)[index] = uint8_t(value);
        return;
    case 2:
        static_cast<uint16_t *>(result)[index] = uint16_t(value);
        return;
    case 4:
        static_cast<uint32_t *>(result)[index] = uint32_t(value);
        return;
    default:
        static_cast<uint64_t *>(result)[index] = value;
    }
}

struct Single {
    using T = schema::random_sample::T;
    using A = schema::random_sample::A;

    size_t n;
    infiniDtype_t dtype, result_dtype;

    static Status create(const Call &call, Single &state, size_t &) {
        state.n = call.dim(T::probs, 0);
        state.dtype = call.dtype(T::probs);
        state.result_dtype = call.dtype(T::result);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        const Parameters p = {float(run.real(A::random_val)), float(run.real(A::topp)), int(run.integer(A::topk)),
                              float(run.real(A::temperature))};
        if (const Status status = check(p, schema::random_sample::op, 0); status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        return visit_float64(dtype, [&](auto tag) {
            using X = typename decltype(tag)::type;
            store_integer(run.data<void>(T::result), result_dtype, 0, draw(run.data<X>(T::probs), n, p));
            return INFINI_STATUS_SUCCESS;
        });
    }
};

struct Batch {
    using T = schema::random_sample_batch::T;
    using A = schema::random_sample_batch::A;

    size_t rows, n;
    ptrdiff_t row_stride, result_stride;
    infiniDtype_t dtype, result_dtype;

    static Status create(const Call &call, Batch &state, size_t &) {
        state.rows = call.dim(T::probs, 0);
        state.n = call.dim(T::probs, 1);
        state.row_stride = call.stride(T::probs, 0);
        state.result_stride = call.stride(T::result, 0);
        state.dtype = call.dtype(T::probs);
        state.result_dtype = call.dtype(T::result);
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        const float *random = run.array<float>(A::random_val), *topp = run.array<float>(A::topp);
        const int *topk = run.array<int>(A::topk);
        const float *temperature = run.array<float>(A::temperature);
        const auto parameters = [&](size_t i) { return Parameters{random[i], topp[i], topk[i], temperature[i]}; };
        for (size_t i = 0; i < rows; i++) {
            const Status status = check(parameters(i), schema::random_sample_batch::op, i);
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        return visit_float64(dtype, [&](auto tag) {
            using X = typename decltype(tag)::type;
            const X *logits = run.data<X>(T::probs);
            char *result = run.data<char>(T::result);
            const ptrdiff_t step = result_stride * ptrdiff_t(element_size(result_dtype));
            parallel_for(rows, grain_for(64 * n), [&](size_t begin, size_t end) {
                for (size_t i = begin; i < end; i++) {
                    const size_t token = draw(logits + ptrdiff_t(i) * row_stride, n, parameters(i));
                    store_integer(result + ptrdiff_t(i) * step, result_dtype, 0, token);
                }
            });
            return INFINI_STATUS_SUCCESS;
        });
    }
};

constexpr infiniopKernel kernels[] = {
    make_kernel<Single>(schema::random_sample::op, schema::random_sample::version),
    make_kernel<Batch>(schema::random_sample_batch::op, schema::random_sample_batch::version),
};
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered[] = {&kernels[0], &kernels[1]};

} // namespace
} // namespace infiniop::cpu
