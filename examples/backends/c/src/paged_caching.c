/* paged_caching: token n goes to row slot % block_size of block slot / block_size, for every head. A negative slot is
 * padding. All slots are checked before anything is written. */
#include "backend.h"
#include "element.h"

#include <inttypes.h>
#include <stdio.h>

enum { K_CACHE, V_CACHE, K, V, SLOT_MAPPING }; /* tensors */

struct half { /* keys, or values: strides in bytes */
    ptrdiff_t cache[3], token, head;
    size_t row;
};
struct state {
    int64_t ntok, nkvh, block_size, slots;
    struct half k, v;
};

static struct half half_of(const infiniopTensorView *cache, const infiniopTensorView *source) {
    const ptrdiff_t size = (ptrdiff_t)size_of(cache->dtype);
    return (struct half){
        .cache = {cache->strides[0] * size, cache->strides[1] * size, cache->strides[2] * size},
        .token = source->strides[0] * size,
        .head = source->strides[1] * size,
        .row = source->shape[2] * (size_t)size,
    };
}

static infiniStatus_t create(void *ctx, const infiniopCall *call, void **out, size_t *workspace) {
    const infiniopTensorView *const *t = call->tensors;
    struct state *state = (struct state *)new_state(sizeof *state);
    (void)ctx;
    if (!state) {
        return INFINI_STATUS_INTERNAL_ERROR;
    }
    state->ntok = (int64_t)t[K]->shape[0];
    state->nkvh = (int64_t)t[K]->shape[1];
    state->block_size = (int64_t)t[K_CACHE]->shape[2];
    state->slots = (int64_t)t[K_CACHE]->shape[0] * state->block_size;
    state->k = half_of(t[K_CACHE], t[K]);
    state->v = half_of(t[V_CACHE], t[V]);
    *out = state;
    *workspace = 0;
    return INFINI_STATUS_SUCCESS;
}

static infiniStatus_t check(const struct state *s, const int64_t *slots) {
    for (int64_t n = 0; n < s->ntok; ++n) {
        if (slots[n] >= s->slots) {
            char expected[64], got[64];
            snprintf(expected, sizeof expected, "values below %" PRId64, s->slots);
            snprintf(got, sizeof got, "%" PRId64 " at [%" PRId64 "]", slots[n], n);
            return fail(INFINI_STATUS_BAD_PARAM, "slot_mapping", expected, got);
        }
    }
    return INFINI_STATUS_SUCCESS;
}

static void copy(const struct state *s, const struct half *h, const int64_t *slots, char *cache, const char *source) {
    for (int64_t n = 0; h->row > 0 && n < s->ntok; ++n) {
        for (int64_t head = 0; slots[n] >= 0 && head < s->nkvh; ++head) {
            const int64_t block = slots[n] / s->block_size, row = slots[n] % s->block_size;
            memcpy(cache + block * h->cache[0] + head * h->cache[1] + row * h->cache[2],
                   source + n * h->token + head * h->head, h->row);
        }
    }
}

static infiniStatus_t calculate(void *raw, const infiniopRun *run) {
    const struct state *state = (const struct state *)raw;
    const int64_t *slots = (const int64_t *)run->data[SLOT_MAPPING];
    const infiniStatus_t status = check(state, slots);
    if (status == INFINI_STATUS_SUCCESS) {
        copy(state, &state->k, slots, (char *)run->data[K_CACHE], (const char *)run->data[K]);
        copy(state, &state->v, slots, (char *)run->data[V_CACHE], (const char *)run->data[V]);
    }
    return status;
}

const infiniopKernel paged_caching_kernel = KERNEL("paged_caching", NULL);
