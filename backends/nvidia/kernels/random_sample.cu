// random_sample and its batch form: one block per row. The parameters lie on the host: they travel as kernel arguments,
// so that a call neither copies nor waits, and a capture keeps them.
#include "../nvidia.h"
#include "select.cuh"

#include "infiniop/schema/random_sample.h"
#include "infiniop/schema/random_sample_batch.h"

namespace infiniop::nvidia {
namespace {

struct Draw {
    float random_val, topp, temperature;
    int32_t topk;
};

constexpr int rows_per_launch = 128;

struct Parameters {
    void *result;
    const void *logits;
    int64_t vocab, row_stride, result_stride;
    int result_size; // bytes of an index
    Draw draws[rows_per_launch];
};

template <class X> __device__ int64_t draw(const Row<X> &row, Scratch &scratch, const Draw &d) {
    using C = compute_t<X>;
    uint64_t largest;
    const Amount own = own_maximum(row);
    const int64_t best = arg_max(row, own, largest);
    const C maximum = widen(value_of<X>(largest));
    const bool greedy = d.random_val == 0 || d.topp == 0 || d.topk == 1 || d.temperature == 0;
    if (greedy || !(maximum - maximum == C(0))) {
        return best;
    }
    const Weigher<X> weigher(maximum, C(d.temperature), row.n);
    uint64_t least = 0; // key of the elements that are drawn from
    const auto amount = [&](int64_t, X element, uint64_t k) { return k >= least ? weigher.amount(element) : 0; };
    const Amount all = sum_amounts(row, amount);
    Amount limit = share_of(double(d.topp), all);
    if (d.topk > 0 && d.topk < row.n) {
        Amount above; // entries
        const uint64_t reached = reached_by<X>(d.topk, scratch, own);
        least = select_key(row, scratch, Amount(d.topk), above,
                           [=](int64_t, X, uint64_t k) { return Amount(k >= reached); });
        const Amount mass = sum_amounts(
            row, [&](int64_t, X element, uint64_t k) { return k > least ? weigher.amount(element) : Amount(0); });
        limit = min(limit, mass + (Amount(d.topk) - above) * weigher.amount(value_of<X>(least)));
    }
    const Amount target = share_of(double(d.random_val), limit);
    Amount before;
    const uint64_t key = select_key(row, scratch, target, before, amount);
    const Amount each = max(weigher.amount(value_of<X>(key)), Amount(1)); // equal logits weigh the same
    return select_index(row.n, scratch, (target - before + each - 1) / each,
                        [&](int64_t i) { return Amount(key_of(row.x[i * row.step]) == key); });
}

template <class X> __global__ void __launch_bounds__(1024) random_sample_kernel(Parameters p) {
    __shared__ Scratch scratch;
    const int64_t r = int64_t(blockIdx.x);
    const Row<X> row = {static_cast<const X *>(p.logits) + r * p.row_stride, p.vocab, 1};
    const int64_t token = draw(row, scratch, p.draws[r]);
    if (threadIdx.x != 0) {
        return;
    }
    const int64_t at = r * p.result_stride;
    switch (p.result_size) { // an index that the type cannot hold is truncated
    case 1:
        static_cast<int8_t *>(p.result)[at] = int8_t(token);
        break;
    case 2:
        static_cast<int16_t *>(p.result)[at] = int16_t(token);
        break;
    case 4:
        static_cast<int32_t *>(p.result)[at] = int32_t(token);
        break;
    default:
        static_cast<int64_t *>(p.result)[at] = token;
    }
}

Status launch_rows(infiniDtype_t dtype, const Parameters &p, int rows, infinirtStream_t stream) {
    const dim3 block(unsigned(plan_row_threads(p.vocab, 8, 1024)));
    return visit_float64(dtype, [&](auto tag) {
        return launch(random_sample_kernel<typename decltype(tag)::type>, dim3(unsigned(rows)), block, 0, stream, p);
    });
}

struct One {
    using T = schema::random_sample::T;
    using A = schema::random_sample::A;
    Parameters p;
    infiniDtype_t dtype;

    static Status create(const Call &call, One &state, size_t &) {
        state.p = {};
        state.dtype = call.dtype(T::probs);
        state.p.vocab = int64_t(call.dim(T::probs, 0));
        state.p.result_size = int(element_size(call.dtype(T::result)));
        return INFINI_STATUS_SUCCESS;
    }

    Status calculate(const Run &run) const {
        Parameters q = p;
        q.result = run.data<void>(T::result);
        q.logits = run.data<void>(T::probs);
        q.draws[0] = {float(run.real(A::random_val)), float(run.real(A::topp)), float(run.real(A::temperature)),
                      int32_t(run.integer(A::topk))};
        return launch_rows(dtype, q, 1, run.stream());
    }
};

struct Batch {
    using T = schema::random_sample_batch::T;
    using A = schema::random_sample_batch::A;
    Parameters p;
    int64_t rows;
    infiniDtype_t dtype;

    static Status create(const Call &call, Batch &state, size_t &) {
        state.p = {};
        state.rows = int64_t(call.dim(T::probs, 0));
        state.dtype = call.dtype(T::probs);
        state.p.vocab = int64_t(call.dim(T::probs, 1));
        state.p.row_stride = call.stride(T::probs, 0);
        state.p.result_stride = call.stride(T::result, 0);
        state.p.result_size = int(element_size(call.dtype(T::result)));
        return INFINI_STATUS_SUCCESS;
    }

    static Status check(const Draw &d, int64_t row) {
        const bool greedy = d.random_val == 0 || d.topp == 0 || d.temperature == 0;
        const auto refuse = [&](const char *argument, const char *expected, double got) {
            return fail(INFINI_STATUS_BAD_PARAM, schema::random_sample_batch::op, argument, expected,
                        Text("%g at [%lld]", got, static_cast<long long>(row)));
        };
        if (!(d.random_val >= 0 && d.random_val <= 1)) {
            return refuse("random_val", "values from 0 to 1", d.random_val);
        }
        if (!(d.topp >= 0)) {
            return refuse("topp", "values from 0 upwards", d.topp);
        }
        if (d.topk == 0 && !greedy) {
            return refuse("topk", "values other than 0", d.topk);
        }
        return d.temperature >= 0 ? INFINI_STATUS_SUCCESS
                                  : refuse("temperature", "values from 0 upwards", d.temperature);
    }

    Status calculate(const Run &run) const {
        const float *random_val = run.array<float>(A::random_val), *topp = run.array<float>(A::topp);
        const float *temperature = run.array<float>(A::temperature);
        const int32_t *topk = run.array<int32_t>(A::topk);
        const auto row_of = [&](int64_t r) { return Draw{random_val[r], topp[r], temperature[r], topk[r]}; };
        Status status = INFINI_STATUS_SUCCESS;
        for (int64_t r = 0; r < rows && status == INFINI_STATUS_SUCCESS; r++) {
            status = check(row_of(r), r);
        }
        for (int64_t first = 0; first < rows && status == INFINI_STATUS_SUCCESS; first += rows_per_launch) {
            Parameters q = p;
            const int64_t count = std::min<int64_t>(rows - first, rows_per_launch);
            q.result = run.data<char>(T::result) + first * p.result_stride * p.result_size;
            q.logits = run.data<char>(T::probs) + first * p.row_stride * int64_t(element_size(dtype));
            for (int64_t r = 0; r < count; r++) {
                q.draws[r] = row_of(first + r);
            }
            status = launch_rows(dtype, q, int(count), run.stream());
        }
        return status;
    }
};

constexpr infiniopKernel one = make_kernel<One>(schema::random_sample::op, schema::random_sample::version);
constexpr infiniopKernel batch =
    make_kernel<Batch>(schema::random_sample_batch::op, schema::random_sample_batch::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered[] = {&one, &batch};

} // namespace
} // namespace infiniop::nvidia
