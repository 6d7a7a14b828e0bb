// paged_caching.
#include "wrong.h"

#include <cstring>

#include "infiniop/schema/paged_caching.h"

namespace wrong {
namespace {

const Fault padding("paged_caching", "padding-written", "slot -1 counts from the end");
const Fault accepted("paged_caching", "bad-slot-accepted", "a slot beyond the cache is skipped");
const Fault status("paged_caching", "bad-slot-wrong-status", "a slot beyond the cache is an INTERNAL_ERROR");
const Fault argument("paged_caching", "message-without-argument", "the message does not say which argument");
const Fault silent("paged_caching", "no-message", "a status without a message");
const Fault partial("paged_caching", "partial-write", "tokens before the bad slot are written");
const Fault first("paged_caching", "slot-0-skipped", "slot 0 is taken for padding");
const Fault dv("paged_caching", "values-as-wide-as-keys", "values are taken to have the keys' head size");
const Fault strides("paged_caching", "values-with-keys-strides",
                    "the value cache is walked with the key cache's strides");
const Fault source("paged_caching", "source-strides-ignored", "new keys are taken to be contiguous");
const Fault mask("paged_caching", "block-size-power-of-two", "slots are taken apart with shifts and masks");
const Fault many("paged_caching", "tokens-beyond-65535", "a grid has no more than 65535 tokens");
const Fault heads("paged_caching", "last-head-left-out", "of an odd number of heads the last one is not copied");

size_t slots(const Job &job) { return job.views[0].shape[0] * job.views[0].shape[2]; }

void copy_token(const Job &job, size_t cache, size_t source_tensor, size_t token, size_t block, size_t row) {
    const View &to = job.views[cache], &from = job.views[source_tensor];
    const View &walked = strides ? job.views[0] : to;
    const View read = source && source_tensor == 2 ? from.row_major() : from;
    const size_t nheads = from.shape[1], width = dv ? std::min(from.last(), job.views[2].last()) : from.last();
    for (size_t head = 0; head < (heads && nheads % 2 && nheads > 1 ? nheads - 1 : nheads); head++) {
        const ptrdiff_t target = ptrdiff_t(block) * walked.strides[0] + ptrdiff_t(head) * walked.strides[1] +
                                 ptrdiff_t(row) * walked.strides[2];
        const ptrdiff_t start = ptrdiff_t(token) * read.strides[0] + ptrdiff_t(head) * read.strides[1];
        if (width && target >= to.low() && target + ptrdiff_t(width) - 1 <= to.high()) {
            std::memcpy(job.at(cache, target), job.at(source_tensor, start), width * to.size());
        }
    }
}

Status write_tokens(const Job &job, size_t ntok) {
    const size_t block_size = job.views[0].shape[2];
    size_t shift = 0;
    while (size_t(2) << shift <= block_size) {
        shift++;
    }
    for (size_t n = 0; n < (many && ntok > 65535 ? 65535 : ntok); n++) {
        int64_t slot = job.integer(4, ptrdiff_t(n));
        slot = padding && slot == -1 ? int64_t(slots(job)) - 1 : slot;
        if (slot < (first ? 1 : 0) || slot >= int64_t(slots(job))) {
            continue;
        }
        const size_t block = mask ? size_t(slot) >> shift : size_t(slot) / block_size;
        const size_t row = mask ? size_t(slot) & ((size_t(1) << shift) - 1) : size_t(slot) % block_size;
        copy_token(job, 0, 2, n, block, row);
        copy_token(job, 1, 3, n, block, row);
    }
    return INFINI_STATUS_SUCCESS;
}

Status run(const Job &job) { return write_tokens(job, job.views[4].count()); }

Status check(const Job &job) {
    for (size_t n = 0; n < job.views[4].count(); n++) {
        const int64_t slot = job.integer(4, ptrdiff_t(n));
        if (slot < int64_t(slots(job)) || accepted) {
            continue;
        }
        if (partial) {
            write_tokens(job, n);
        }
        if (silent) {
            return INFINI_STATUS_BAD_PARAM;
        }
        return fail(status ? INFINI_STATUS_INTERNAL_ERROR : INFINI_STATUS_BAD_PARAM, job.op,
                    argument ? nullptr : "slot_mapping", "values below the number of slots", std::to_string(slot));
    }
    return INFINI_STATUS_SUCCESS;
}

} // namespace

const Operator paged_caching = {
    infiniop::schema::paged_caching::op, infiniop::schema::paged_caching::version, 3, no_workspace, run, check};

} // namespace wrong
