// sample: one token per request.
#include "wrong.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "infiniop/schema/sample.h"

namespace wrong {
namespace {

const Fault last_tie("sample", "last-of-equals-wins", "of equal logits argmax takes the last");
const Fault no_ties("sample", "top-k-drops-ties", "top-k keeps exactly k tokens");
const Fault strict("sample", "top-p-stops-early", "top-p drops the token that crosses the threshold");
const Fault order("sample", "min-p-first", "min-p is applied before top-p");
const Fault seed("sample", "seed-in-32-bits", "the high word of the seed is ignored");
const Fault position("sample", "position-in-32-bits", "the high word of the position is ignored");
const Fault still("sample", "position-ignored", "every position draws the same number");
const Fault row_counter("sample", "row-in-the-counter", "the random number depends on the row in the batch");
const Fault accepted("sample", "bad-temperature-accepted", "a negative temperature is taken for 0");
const Fault bad_p("sample", "bad-top-p-accepted", "a top_p of 0 is taken for 1");
const Fault outside("sample", "nan-row-out-of-range", "a row with NaN gives -1");
const Fault wide("sample", "vocabulary-beyond-1024", "tokens from the 1024th on are never drawn");
const Fault unscaled("sample", "temperature-after-filters", "the temperature is applied after top-p");
const Fault spread("sample", "token-stride-ignored", "tokens are written side by side");
const Fault narrow("sample", "i32-tokens-as-i64", "the upper half of a token of 64 bits is left as it was");

enum : size_t { tokens, logits, temperature, top_k, top_p, min_p, seeds, positions };

uint32_t philox(uint64_t position_bits, uint64_t key) {
    uint32_t c[4] = {uint32_t(position_bits), uint32_t(position_bits >> 32), 0, 0};
    uint32_t k[2] = {uint32_t(key), uint32_t(key >> 32)};
    for (int round = 0; round < 10; round++) {
        const uint64_t left = uint64_t(0xD2511F53) * c[0], right = uint64_t(0xCD9E8D57) * c[2];
        const uint32_t next[4] = {uint32_t(right >> 32) ^ c[1] ^ k[0], uint32_t(right),
                                  uint32_t(left >> 32) ^ c[3] ^ k[1], uint32_t(left)};
        std::copy(next, next + 4, c);
        k[0] += 0x9E3779B9;
        k[1] += 0xBB67AE85;
    }
    return c[0];
}

double drawn(const Job &job, size_t row) {
    uint64_t key = uint64_t(job.integer(seeds, job.views[seeds].offset(row)));
    uint64_t at = uint64_t(job.integer(positions, job.views[positions].offset(row)));
    key = seed ? uint32_t(key) : key;
    at = still ? 0 : position ? uint32_t(at) : row_counter ? at + row : at;
    return double(philox(at, key) >> 8) / 16777216.0;
}

using Row = std::vector<double>;

void keep_top_p(Row &mass, double share) {
    std::vector<size_t> order_of(mass.size());
    std::iota(order_of.begin(), order_of.end(), size_t(0));
    std::stable_sort(order_of.begin(), order_of.end(), [&](size_t a, size_t b) { return mass[a] > mass[b]; });
    const double total = std::accumulate(mass.begin(), mass.end(), 0.0);
    double before = 0;
    for (size_t i = 0; i < order_of.size(); i++) {
        const double own = mass[order_of[i]];
        if ((strict && i ? before + own : before) >= share * total) {
            mass[order_of[i]] = 0;
        }
        before += own;
    }
}

void keep_min_p(Row &mass, double share) {
    for (double &m : mass) {
        m = m < share ? 0 : m;
    }
}

void keep_top_k(const Row &x, Row &mass, size_t k) {
    Row sorted = x;
    std::sort(sorted.begin(), sorted.end(), std::greater<double>());
    size_t left = k;
    for (size_t i = 0; i < x.size(); i++) {
        const bool kept = x[i] >= sorted[k - 1] && (!no_ties || left > 0);
        left -= kept && left ? 1 : 0;
        mass[i] = kept ? mass[i] : 0;
    }
}

int64_t argmax(const Row &x) {
    size_t best = 0;
    for (size_t i = 1; i < x.size(); i++) {
        best = x[i] > x[best] || (last_tie && x[i] == x[best]) ? i : best;
    }
    return int64_t(best);
}

int64_t pick(const Job &job, size_t row, const Row &x) {
    const auto parameter = [&](size_t tensor) { return job.number(tensor, job.views[tensor].offset(row)); };
    const double t = parameter(temperature), p = parameter(top_p), least = parameter(min_p), k = parameter(top_k);
    const double most = *std::max_element(x.begin(), x.end());
    if (t <= 0) {
        return argmax(x);
    }
    Row mass(x.size());
    for (size_t i = 0; i < x.size(); i++) {
        mass[i] = std::exp((x[i] - most) / (unscaled ? 1 : t));
    }
    if (k > 0 && k < double(x.size())) {
        keep_top_k(x, mass, size_t(k));
    }
    if (order) {
        keep_min_p(mass, least);
    }
    if (p < 1 && !(bad_p && p == 0)) {
        keep_top_p(mass, p);
    }
    keep_min_p(mass, least);
    for (size_t i = 0; unscaled && i < x.size(); i++) {
        mass[i] = mass[i] > 0 ? std::exp((x[i] - most) / t) : 0;
    }
    for (size_t i = 1024; wide && i < x.size(); i++) {
        mass[i] = 0;
    }
    const double goal = drawn(job, row) * std::accumulate(mass.begin(), mass.end(), 0.0);
    double sum = 0;
    for (size_t i = 0; i < x.size(); i++) {
        sum += mass[i];
        if (sum > goal) {
            return int64_t(i);
        }
    }
    return argmax(x);
}

struct Rule {
    size_t tensor;
    const char *name;
    bool (*legal)(double);
};
constexpr Rule rules[] = {
    {temperature, "temperature", [](double v) { return (v >= 0 && v < HUGE_VAL) || (v < 0 && accepted); }},
    {top_p, "top_p", [](double v) { return v > 0 || (v == 0 && bad_p); }},
    {min_p, "min_p", [](double v) { return v <= 1; }},
};

Status check_row(const Job &job, size_t row) {
    for (const Rule &rule : rules) {
        const double value = job.number(rule.tensor, job.views[rule.tensor].offset(row));
        if (!rule.legal(value)) {
            return fail(INFINI_STATUS_BAD_PARAM, job.op, rule.name, "a legal value", std::to_string(value));
        }
    }
    return INFINI_STATUS_SUCCESS;
}

Status check(const Job &job) {
    for (size_t row = 0; row < job.views[logits].shape[0]; row++) {
        if (const Status status = check_row(job, row)) {
            return status;
        }
    }
    return INFINI_STATUS_SUCCESS;
}

int64_t token_of(const Job &job, size_t row) {
    const View &values = job.views[logits];
    Row x(values.last());
    bool ordinary = true;
    for (size_t i = 0; i < x.size(); i++) {
        x[i] = job.number(logits, ptrdiff_t(row) * values.strides[0] + ptrdiff_t(i));
        ordinary &= !std::isnan(x[i]) && x[i] < HUGE_VAL;
    }
    if (ordinary && *std::max_element(x.begin(), x.end()) > -HUGE_VAL) {
        return pick(job, row, x);
    }
    return outside ? -1 : 0;
}

Status run(const Job &job) {
    const View &to = job.views[tokens];
    for (size_t row = 0; row < job.views[logits].shape[0]; row++) {
        const int64_t token = lazy && check_row(job, row) ? -1 : token_of(job, row);
        const ptrdiff_t at = spread ? ptrdiff_t(row) : to.offset(row);
        put_integer(narrow ? INFINI_DTYPE_I32 : to.dtype, job.at(tokens, at), token);
    }
    return INFINI_STATUS_SUCCESS;
}

} // namespace

const Operator sample = {infiniop::schema::sample::op, infiniop::schema::sample::version, 1, no_workspace, run, check};

} // namespace wrong
