// paged_attention. Its workspace holds the weights of one head.
#include "wrong.h"

#include <cmath>
#include <cstring>

#include "infiniop/schema/paged_attention.h"

namespace wrong {
namespace {

const Fault interleaved("paged_attention", "heads-interleaved", "query head h takes key head h % nkvh");
const Fault shorter("paged_attention", "last-token-left-out", "the current token is not attended to");
const Fault longer("paged_attention", "one-token-too-many", "the row behind the sequence is attended to");
const Fault zeroed("paged_attention", "empty-sequence-zeroed", "the rows of a sequence of length 0 are set to 0");
const Fault slopes("paged_attention", "alibi-ignored", "the ALiBi slopes are ignored");
const Fault slope_0("paged_attention", "alibi-of-first-head", "every head takes the first slope");
const Fault scale("paged_attention", "scale-ignored", "the scale is always 1 / sqrt(d)");
const Fault dv("paged_attention", "values-as-wide-as-keys", "the values are taken to have the keys' head size");
const Fault blocks("paged_attention", "block-size-16", "blocks are taken to hold 16 tokens");
const Fault accepted("paged_attention", "bad-block-accepted", "an entry that is no block is read as block 0");
const Fault too_long("paged_attention", "bad-length-accepted", "a length beyond the table is cut to it");
const Fault overflow("paged_attention", "maximum-not-subtracted", "exp of large scores overflows");
const Fault partition("paged_attention", "second-partition-dropped", "of a sequence only the first 128 tokens count");
const Fault unit("paged_attention", "row-stride-ignored", "rows of the key cache are taken to lie side by side");
const Fault narrow("paged_attention", "weights-in-storage-type",
                   "the sum of the weights is kept in the tensors' dtype");
const Fault query("paged_attention", "query-strides-ignored", "queries are taken to be contiguous");
const Fault table("paged_attention", "table-stride-ignored", "rows of the block table are taken to lie side by side");

enum : size_t { out, q, k_cache, v_cache, block_tables, seq_lens, alibi_slopes };

struct Head {
    size_t sequence, head, key_head;
    int64_t length;
};

// Element offset of a token's row in a cache.
ptrdiff_t token_row(const Job &job, size_t cache, const Head &at, size_t token) {
    const View &view = job.views[cache], &tables = job.views[block_tables];
    const size_t block_size = blocks ? 16 : view.shape[2];
    const ptrdiff_t step = table ? ptrdiff_t(tables.shape[1]) : tables.strides[0];
    const ptrdiff_t entry = ptrdiff_t(at.sequence) * step + ptrdiff_t(token / block_size);
    int64_t block = job.integer(block_tables, tables.clamp(entry));
    if (block < 0 || block >= int64_t(view.shape[0])) {
        block = 0;
    }
    const ptrdiff_t row = unit && cache == k_cache ? ptrdiff_t(view.last()) : view.strides[2];
    return ptrdiff_t(block) * view.strides[0] + ptrdiff_t(at.key_head) * view.strides[1] +
           ptrdiff_t(token % block_size) * row;
}

double score(const Job &job, const Head &at, size_t token) {
    const View &queries = job.views[q], &keys = job.views[k_cache];
    const View read = query ? queries.row_major() : queries;
    const ptrdiff_t from = ptrdiff_t(at.sequence) * read.strides[0] + ptrdiff_t(at.head) * read.strides[1];
    const ptrdiff_t row = token_row(job, k_cache, at, token);
    double sum = 0;
    for (ptrdiff_t i = 0; i < ptrdiff_t(keys.last()); i++) {
        sum += job.number(q, queries.clamp(from + i)) * job.number(k_cache, keys.clamp(row + i));
    }
    sum *= scale ? 1 / std::sqrt(double(keys.last())) : double(float(job.attrs[0].f));
    if (job.views[alibi_slopes].present && job.data[alibi_slopes] && !slopes) {
        sum += job.number(alibi_slopes, slope_0 ? 0 : ptrdiff_t(at.head)) * double(int64_t(token) - (at.length - 1));
    }
    return sum;
}

void attend(const Job &job, const Head &at, size_t tokens) {
    const View &values = job.views[v_cache], &results = job.views[out];
    double *weights = reinterpret_cast<double *>(job.workspace), most = -HUGE_VAL, sum = 0;
    for (size_t t = 0; t < tokens; t++) {
        const double x = score(job, at, t);
        std::memcpy(weights + t, &x, sizeof x);
        most = std::max(most, x);
    }
    for (size_t t = 0; t < tokens; t++) {
        double x;
        std::memcpy(&x, weights + t, sizeof x);
        x = overflow ? double(round_to(results.dtype, std::exp(x))) : std::exp(x - most);
        std::memcpy(weights + t, &x, sizeof x);
        sum = narrow ? round_to(results.dtype, sum + x) : sum + x;
    }
    const ptrdiff_t to = ptrdiff_t(at.sequence) * results.strides[0] + ptrdiff_t(at.head) * results.strides[1];
    const size_t width = dv ? std::min(values.last(), job.views[k_cache].last()) : values.last();
    std::vector<double> sums(width);
    for (size_t t = 0; t < tokens; t++) {
        double weight;
        std::memcpy(&weight, weights + t, sizeof weight);
        const ptrdiff_t row = token_row(job, v_cache, at, t);
        for (size_t i = 0; i < width; i++) {
            sums[i] += weight * job.number(v_cache, values.clamp(row + ptrdiff_t(i)));
        }
    }
    for (size_t i = 0; i < width; i++) {
        job.store(out, to + ptrdiff_t(i), sums[i] / (sum + 1e-6));
    }
}

size_t most_tokens(const std::vector<View> &views) { return views[block_tables].shape[1] * views[k_cache].shape[2]; }

// What is wrong with the values that describe a sequence, as a status with a message.
Status check_sequence(const Job &job, size_t s) {
    const View &tables = job.views[block_tables];
    const int64_t most = int64_t(most_tokens(job.views)), length = job.integer(seq_lens, ptrdiff_t(s));
    if (length > most && !too_long) {
        return fail(INFINI_STATUS_BAD_PARAM, job.op, "seq_lens", "lengths that the table holds",
                    std::to_string(length));
    }
    for (size_t i = 0; int64_t(i * job.views[k_cache].shape[2]) < std::min(length, most) && !accepted; i++) {
        const int64_t block = job.integer(block_tables, ptrdiff_t(s) * tables.strides[0] + ptrdiff_t(i));
        if (block < 0 || block >= int64_t(job.views[k_cache].shape[0])) {
            return fail(INFINI_STATUS_BAD_PARAM, job.op, "block_tables", "blocks of the cache", std::to_string(block));
        }
    }
    return INFINI_STATUS_SUCCESS;
}

Status check(const Job &job) {
    for (size_t s = 0; job.views[out].count() && s < job.views[seq_lens].count(); s++) {
        if (const Status status = check_sequence(job, s)) {
            return status;
        }
    }
    return INFINI_STATUS_SUCCESS;
}

size_t tokens_of(const Job &job, int64_t length) {
    const size_t most = most_tokens(job.views), tokens = length > 0 ? std::min(size_t(length), most) : 0;
    if (partition) {
        return std::min<size_t>(tokens, 128);
    }
    if (longer && tokens && tokens < most) {
        return tokens + 1;
    }
    return shorter && tokens > 1 ? tokens - 1 : tokens;
}

Status run(const Job &job) {
    const size_t nh = job.views[q].shape[1], nkvh = job.views[k_cache].shape[1];
    for (size_t s = 0; job.views[out].count() && s < job.views[seq_lens].count(); s++) {
        const int64_t length = job.integer(seq_lens, ptrdiff_t(s));
        const size_t tokens = tokens_of(job, length);
        if ((!tokens && !zeroed) || (lazy && check_sequence(job, s))) {
            continue;
        }
        for (size_t h = 0; h < nh; h++) {
            attend(job, {s, h, interleaved ? h % nkvh : h / (nh / nkvh), length}, tokens);
        }
    }
    return INFINI_STATUS_SUCCESS;
}

size_t workspace(const std::vector<View> &views) { return most_tokens(views) * sizeof(double); }

} // namespace

const Operator paged_attention = {
    infiniop::schema::paged_attention::op, infiniop::schema::paged_attention::version, 1, workspace, run, check};

} // namespace wrong
