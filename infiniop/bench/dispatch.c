/* The cost of a C call to a prebuilt descriptor: nanoseconds of the empty kernel called directly, through infiniopAdd,
 * and in the replay of a graph. `infiniop bench overhead` compiles and runs it where a C compiler is found. */
#define _POSIX_C_SOURCE 199309L
#include <infiniop.h>
#include <infinirt.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CALLS 2000000
#define ROUNDS 9
#define NODES 256

static infiniStatus_t create(void *ctx, const infiniopCall *call, void **state, size_t *workspace) {
    (void)ctx, (void)call;
    *state = NULL;
    *workspace = 0;
    return INFINI_STATUS_SUCCESS;
}

static infiniStatus_t calculate(void *state, const infiniopRun *run) {
    (void)state;
    return run->data[0] ? INFINI_STATUS_SUCCESS : INFINI_STATUS_INTERNAL_ERROR;
}

static const infiniopKernel add = {sizeof add, "add", INFINIOP_BENCH_ADD_VERSION, NULL, create, calculate, NULL, NULL};
static const infiniopKernel *const kernels[] = {&add};
static const infiniopBackend backend = {sizeof backend,
                                        INFINIOP_BACKEND_ABI_MAJOR,
                                        INFINIOP_BACKEND_ABI_MINOR,
                                        "empty",
                                        "cpu",
                                        "1",
                                        1,
                                        INFINIOP_BACKEND_EXPLICIT_ONLY,
                                        NULL,
                                        NULL,
                                        1,
                                        kernels};

static void check(infiniStatus_t status) {
    if (status != INFINI_STATUS_SUCCESS) {
        fprintf(stderr, "%s\n", infiniopGetLastError());
        exit(1);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(void) {
    infiniopHandle_t handle;
    infiniopTensorDescriptor_t tensor;
    infiniopAddDescriptor_t desc;
    size_t shape[] = {1};
    check(infiniopRegisterBackend(&backend));
    check(infiniopCreateHandleForBackend(&handle, "empty"));
    check(infiniopCreateTensorDescriptor(&tensor, 1, shape, NULL, INFINI_DTYPE_F32));
    check(infiniopCreateAddDescriptor(handle, &desc, tensor, tensor, tensor));

    float a = 1, b = 2, c = 0;
    void *data[] = {&c, &a, &b};
    infiniopRun run = {sizeof run, NULL, 0, data, NULL, NULL};
    infiniStatus_t (*volatile direct)(void *, const infiniopRun *) = calculate;
    infinirtStream_t stream;
    infinirtGraph_t graph;
    infinirtGraphExec_t exec;
    check(infinirtStreamCreate(&stream));
    check(infinirtStreamBeginCapture(stream, INFINIRT_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    for (int i = 0; i < NODES; ++i)
        check(infiniopAdd(desc, NULL, 0, &c, &a, &b, stream));
    check(infinirtStreamEndCapture(stream, &graph));
    check(infinirtGraphInstantiate(&exec, graph, NULL, NULL, 0));

    double empty[ROUNDS], through[ROUNDS], replayed[ROUNDS];
    for (int round = 0; round < ROUNDS; ++round) {
        double start = now();
        for (int i = 0; i < CALLS; ++i)
            check(direct(NULL, &run));
        empty[round] = (now() - start) / CALLS;
        start = now();
        for (int i = 0; i < CALLS; ++i)
            check(infiniopAdd(desc, NULL, 0, &c, &a, &b, NULL));
        through[round] = (now() - start) / CALLS;
        start = now();
        for (int i = 0; i < CALLS / NODES; ++i)
            check(infinirtGraphLaunch(exec, stream));
        replayed[round] = (now() - start) / (CALLS / NODES * NODES);
    }
    qsort(empty, ROUNDS, sizeof *empty, ascending);
    qsort(through, ROUNDS, sizeof *through, ascending);
    qsort(replayed, ROUNDS, sizeof *replayed, ascending);
    printf("%.2f %.2f %.2f\n", empty[ROUNDS / 2], through[ROUNDS / 2], replayed[ROUNDS / 2]);
    check(infinirtGraphExecDestroy(exec));
    check(infinirtGraphDestroy(graph));
    check(infinirtStreamDestroy(stream));
    check(infiniopDestroyAddDescriptor(desc));
    check(infiniopDestroyTensorDescriptor(tensor));
    check(infiniopDestroyHandle(handle));
    return 0;
}
