/* NCCL's functions for ranks that one thread drives on host memory: calls of a group are kept, and done when the last
 * group ends, as a real library may do them. f32 sums only: it shows which call arrives with which arguments. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct Comm {
    int rank, world;
    struct Comm **all;
} Comm;

enum Kind { REDUCE_ALL, BROADCAST, REDUCE, GATHER, SCATTER, SEND, RECV };

typedef struct {
    enum Kind kind;
    const char *send;
    char *recv;
    size_t count;
    int dtype, peer; /* peer: root too */
    Comm *comm;
    int done;
} Call;

static Call calls[256];
static int count = 0, depth = 0, made = 0;

static size_t size_of(int dtype) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return sizes[dtype];
}

static void add(float *to, const float *from, size_t n) {
    for (size_t i = 0; i < n; i++) {
        to[i] += from[i];
    }
}

/* The matching calls of all ranks, in rank order; 0 when one is missing. */
static int gather(Call *first, Call **by_rank) {
    for (int r = 0; r < first->comm->world; r++) {
        by_rank[r] = NULL;
        for (int i = 0; i < count && !by_rank[r]; i++) {
            Call *c = &calls[i];
            if (!c->done && c->comm == first->comm->all[r] && c->kind == first->kind) {
                by_rank[r] = c;
            }
        }
        if (!by_rank[r]) {
            return 0;
        }
    }
    return 1;
}

static int collective(Call *first) {
    Call *ranks[16];
    if (!gather(first, ranks)) {
        return 1;
    }
    const int world = first->comm->world;
    const size_t n = first->count, bytes = n * size_of(first->dtype);
    for (int r = 0; r < world; r++) {
        ranks[r]->done = 1;
    }
    float *sum = calloc(n * (size_t)world + 1, sizeof(float));
    for (int r = 0; r < world && first->kind != BROADCAST && first->kind != GATHER; r++) {
        add(sum, (const float *)ranks[r]->send, first->kind == SCATTER ? n * (size_t)world : n);
    }
    for (int r = 0; r < world; r++) {
        switch (first->kind) {
        case REDUCE_ALL:
            memcpy(ranks[r]->recv, sum, bytes);
            break;
        case BROADCAST:
            memmove(ranks[r]->recv, ranks[first->peer]->send, bytes);
            break;
        case REDUCE:
            if (r == first->peer) {
                memcpy(ranks[r]->recv, sum, bytes);
            }
            break;
        case GATHER:
            for (int s = 0; s < world; s++) {
                memcpy(ranks[r]->recv + (size_t)s * bytes, ranks[s]->send, bytes);
            }
            break;
        default: /* SCATTER */
            memcpy(ranks[r]->recv, sum + (size_t)r * n, bytes);
        }
    }
    free(sum);
    return 0;
}

static int transfer(Call *send) {
    for (int i = 0; i < count; i++) {
        Call *c = &calls[i];
        if (c->kind == RECV && !c->done && c->comm == send->comm->all[send->peer] && c->peer == send->comm->rank) {
            memcpy(c->recv, send->send, send->count * size_of(send->dtype));
            c->done = send->done = 1;
            return 0;
        }
    }
    return 1;
}

static int finish(void) {
    int failed = 0;
    for (int i = 0; i < count && !failed; i++) {
        if (!calls[i].done && calls[i].kind != RECV) {
            failed = calls[i].kind == SEND ? transfer(&calls[i]) : collective(&calls[i]);
        }
    }
    count = 0;
    return failed ? 5 : 0;
}

static int keep(Call call) {
    calls[count++] = call;
    return depth ? 0 : finish();
}

const char *ncclGetErrorString(int result) { return result == 5 ? "a rank is missing" : "?"; }

int ncclGetUniqueId(char *id) {
    memset(id, 7, 128);
    return 0;
}

int ncclCommInitAll(Comm **comms, int n, const int *devices) {
    Comm **all = calloc((size_t)n, sizeof(Comm *));
    (void)devices;
    for (int r = 0; r < n; r++) {
        comms[r] = all[r] = malloc(sizeof(Comm));
        *comms[r] = (Comm){r, n, all};
        made++;
    }
    return 0;
}

typedef struct {
    char bytes[128];
} Id;

int ncclCommInitRank(Comm **comm, int n, Id id, int rank) {
    const int device = 0;
    return n == 1 && rank == 0 && id.bytes[127] == 7 ? ncclCommInitAll(comm, 1, &device) : 5;
}

int ncclCommDestroy(Comm *comm) {
    made--;
    (void)comm;
    return 0;
}

int ncclGroupStart(void) {
    depth++;
    return 0;
}

int ncclGroupEnd(void) { return --depth ? 0 : finish(); }

int ncclAllReduce(const void *s, void *r, size_t n, int t, int op, Comm *c, void *stream) {
    (void)op, (void)stream;
    return keep((Call){REDUCE_ALL, s, r, n, t, 0, c, 0});
}
int ncclBroadcast(const void *s, void *r, size_t n, int t, int root, Comm *c, void *stream) {
    (void)stream;
    return keep((Call){BROADCAST, s, r, n, t, root, c, 0});
}
int ncclReduce(const void *s, void *r, size_t n, int t, int op, int root, Comm *c, void *stream) {
    (void)op, (void)stream;
    return keep((Call){REDUCE, s, r, n, t, root, c, 0});
}
int ncclAllGather(const void *s, void *r, size_t n, int t, Comm *c, void *stream) {
    (void)stream;
    return keep((Call){GATHER, s, r, n, t, 0, c, 0});
}
int ncclReduceScatter(const void *s, void *r, size_t n, int t, int op, Comm *c, void *stream) {
    (void)op, (void)stream;
    return keep((Call){SCATTER, s, r, n, t, 0, c, 0});
}
int ncclSend(const void *s, size_t n, int t, int peer, Comm *c, void *stream) {
    (void)stream;
    return keep((Call){SEND, s, NULL, n, t, peer, c, 0});
}
int ncclRecv(void *r, size_t n, int t, int peer, Comm *c, void *stream) {
    (void)stream;
    return keep((Call){RECV, NULL, r, n, t, peer, c, 0});
}
