/* Capture and replay on the CPU, and on a device that brings graphs of its own. */
#include <infiniop.h>
#include <infinirt.h>
#include <pthread.h>

#include "check.h"

enum { N = 8 };

static infiniopHandle_t handle;

static infiniopReluDescriptor_t new_relu(void) {
    const size_t shape[1] = {N};
    infiniopTensorDescriptor_t t;
    infiniopReluDescriptor_t desc;
    OK(infiniopCreateTensorDescriptor(&t, 1, shape, NULL, INFINI_DTYPE_F32));
    OK(infiniopCreateReluDescriptor(handle, &desc, t, t));
    OK(infiniopDestroyTensorDescriptor(t));
    return desc;
}

static infiniStatus_t relu(infiniopReluDescriptor_t desc, float *out, const float *in, infinirtStream_t stream) {
    return infiniopRelu(desc, NULL, 0, out, in, stream);
}

static void fill(float *values, float scale) {
    for (int i = 0; i < N; ++i) {
        values[i] = scale * (float)(i - N / 2);
    }
}

static infinirtGraphExec_t finish(infinirtStream_t stream) {
    infinirtGraph_t graph;
    infinirtGraphExec_t exec;
    infinirtGraphNode_t node = &graph;
    char log[16] = "?";
    OK(infinirtStreamEndCapture(stream, &graph));
    OK(infinirtGraphInstantiate(&exec, graph, &node, log, sizeof log));
    CHECK(node == NULL && log[0] == '\0');
    OK(infinirtGraphDestroy(graph)); /* allowed once it is instantiated */
    return exec;
}

static void replay(void) {
    float in[N], middle[N], out[N];
    infinirtStream_t stream, other;
    infinirtEvent_t event;
    infinirtGraphExec_t exec;
    infiniopReluDescriptor_t desc = new_relu();
    int capturing = 2;
    OK(infinirtStreamCreate(&stream));
    OK(infinirtStreamCreate(&other));
    OK(infinirtStreamIsCapturing(stream, &capturing));
    CHECK(capturing == 0);
    OK(infinirtEventCreate(&event));
    fill(in, 1);
    memset(out, 9, sizeof out);
    OK(infinirtStreamBeginCapture(stream, INFINIRT_STREAM_CAPTURE_MODE_RELAXED));
    OK(infinirtStreamIsCapturing(stream, &capturing));
    CHECK(capturing == 1);
    OK(infinirtStreamIsCapturing(NULL, &capturing));
    CHECK(capturing == 0);
    FAILS(NULL_POINTER, "capturing", infinirtStreamIsCapturing(stream, NULL));
    OK(infinirtMemsetAsync(middle, 0xff, sizeof middle, stream));
    OK(relu(desc, middle, in, stream));
    OK(infinirtEventRecord(event, stream));
    OK(infinirtStreamWaitEvent(stream, event));
    OK(infinirtMemcpyAsync(out, middle, sizeof out, INFINIRT_MEMCPY_D2D, stream));
    CHECK(((char *)out)[0] == 9); /* recorded, not run */
    exec = finish(stream);
    OK(infiniopDestroyReluDescriptor(desc)); /* the graph holds it */
    for (int round = 1; round <= 3; ++round) {
        fill(in, (float)round);
        OK(round == 2 ? infinirtGraphLuanch(exec, other) : infinirtGraphLaunch(exec, round == 1 ? stream : NULL));
        for (int i = 0; i < N; ++i) {
            CHECK(out[i] == (in[i] > 0 ? in[i] : 0));
        }
    }
    OK(infinirtGraphExecDestroy(exec));
    OK(infinirtEventDestroy(event));
    OK(infinirtStreamDestroy(stream));
    OK(infinirtStreamDestroy(other));
}

static void refusals(void) {
    float in[N], out[N];
    void *p;
    infinirtStream_t stream;
    infinirtGraph_t graph, untouched = &stream;
    infinirtGraphExec_t exec;
    infiniopReluDescriptor_t desc = new_relu();
    OK(infinirtStreamCreate(&stream));
    graph = untouched;
    FAILS(BAD_PARAM, "default stream", infinirtStreamBeginCapture(NULL, INFINIRT_STREAM_CAPTURE_MODE_GLOBAL));
    FAILS(BAD_PARAM, "mode", infinirtStreamBeginCapture(stream, (infinirtStreamCaptureMode_t)3));
    FAILS(BAD_PARAM, "mode", infinirtStreamBeginCapture(stream, (infinirtStreamCaptureMode_t)-1));
    FAILS(BAD_PARAM, "not capturing", infinirtStreamEndCapture(stream, &graph));
    OK(infinirtStreamBeginCapture(stream, INFINIRT_STREAM_CAPTURE_MODE_GLOBAL));
    FAILS(BAD_PARAM, "one that is", infinirtStreamBeginCapture(stream, INFINIRT_STREAM_CAPTURE_MODE_GLOBAL));
    FAILS(BAD_PARAM, "capturing", infinirtMallocAsync(&p, 8, stream));
    FAILS(BAD_PARAM, "capturing", infinirtFreeAsync(out, stream));
    FAILS(BAD_PARAM, "capturing", infinirtStreamSynchronize(stream));
    FAILS(BAD_PARAM, "capturing", infinirtStreamDestroy(stream));
    FAILS(BAD_PARAM, "capturing", infinirtDeviceSynchronize());
    FAILS(NULL_POINTER, "relu: x", relu(desc, out, NULL, stream)); /* checks come before recording */
    FAILS(NULL_POINTER, "graph_ptr", infinirtStreamEndCapture(stream, NULL));
    OK(infinirtStreamEndCapture(stream, &graph));
    CHECK(graph != untouched);
    fill(in, 1);
    OK(relu(desc, out, in, stream)); /* and the stream runs again */
    CHECK(out[N - 1] == in[N - 1]);
    FAILS(NULL_POINTER, "graph_exec_ptr", infinirtGraphInstantiate(NULL, graph, NULL, NULL, 0));
    FAILS(NULL_POINTER, "graph", infinirtGraphInstantiate(&exec, NULL, NULL, NULL, 0));
    OK(infinirtGraphInstantiate(&exec, graph, NULL, NULL, 0));
    FAILS(BAD_PARAM, "graph", infinirtGraphDestroy(exec));
    FAILS(BAD_PARAM, "graph_exec", infinirtGraphLaunch(graph, stream));
    FAILS(BAD_PARAM, "graph_exec", infinirtGraphExecDestroy(graph));
    FAILS(NULL_POINTER, "graph_exec", infinirtGraphLuanch(NULL, stream));
    OK(infinirtGraphExecDestroy(exec));
    OK(infinirtGraphDestroy(graph));
    OK(infinirtGraphDestroy(NULL));
    OK(infinirtGraphExecDestroy(NULL));
    OK(infiniopDestroyReluDescriptor(desc));
    OK(infinirtStreamDestroy(stream));
}

/* A kernel's error stops the replay and comes out of it. */
static void error_in_replay(void) {
    const size_t cache[4] = {1, 1, 4, 1}, token[3] = {1, 1, 1}, one[1] = {1};
    float k_cache[4] = {0}, v_cache[4] = {0}, k = 1, v = 2, after[1] = {5};
    int64_t slot = 4;
    infiniopTensorDescriptor_t c, t, s;
    infiniopPagedCachingDescriptor_t desc;
    infinirtStream_t stream;
    infinirtGraphExec_t exec;
    OK(infiniopCreateTensorDescriptor(&c, 4, cache, NULL, INFINI_DTYPE_F32));
    OK(infiniopCreateTensorDescriptor(&t, 3, token, NULL, INFINI_DTYPE_F32));
    OK(infiniopCreateTensorDescriptor(&s, 1, one, NULL, INFINI_DTYPE_I64));
    OK(infiniopCreatePagedCachingDescriptor(handle, &desc, c, c, t, t, s));
    OK(infinirtStreamCreate(&stream));
    OK(infinirtStreamBeginCapture(stream, INFINIRT_STREAM_CAPTURE_MODE_GLOBAL));
    OK(infiniopPagedCaching(desc, NULL, 0, k_cache, v_cache, &k, &v, &slot, stream));
    OK(infinirtMemsetAsync(after, 0, sizeof after, stream));
    exec = finish(stream);
    FAILS(BAD_PARAM, "slot_mapping", infinirtGraphLaunch(exec, stream));
    CHECK(after[0] == 5);
    slot = 3;
    OK(infinirtGraphLaunch(exec, stream));
    CHECK(after[0] == 0 && k_cache[3] == 1 && v_cache[3] == 2);
    OK(infinirtGraphExecDestroy(exec));
    OK(infinirtStreamDestroy(stream));
    OK(infiniopDestroyPagedCachingDescriptor(desc));
    OK(infiniopDestroyTensorDescriptor(c));
    OK(infiniopDestroyTensorDescriptor(t));
    OK(infiniopDestroyTensorDescriptor(s));
}

/* A stream that waits for an event of the capture takes part in it; a graph can be captured into another. */
static void joined_and_nested(void) {
    float in[N], middle[N], out[N];
    infinirtStream_t origin, joined;
    infinirtEvent_t fork;
    infinirtGraph_t graph;
    infinirtGraphExec_t inner, outer;
    infiniopReluDescriptor_t desc = new_relu();
    OK(infinirtStreamCreate(&origin));
    OK(infinirtStreamCreate(&joined));
    OK(infinirtEventCreate(&fork));
    fill(in, 1);
    memset(out, 0, sizeof out);
    OK(infinirtStreamBeginCapture(origin, INFINIRT_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    OK(relu(desc, middle, in, origin));
    OK(infinirtEventRecord(fork, origin));
    OK(infinirtStreamWaitEvent(joined, fork));
    OK(infinirtMemcpyAsync(out, middle, sizeof out, INFINIRT_MEMCPY_D2D, joined));
    CHECK(out[N - 1] == 0);
    FAILS(BAD_PARAM, "one that joined it", infinirtStreamEndCapture(joined, &graph));
    inner = finish(origin);
    OK(infinirtStreamSynchronize(joined)); /* it has left the capture */
    OK(infinirtStreamBeginCapture(joined, INFINIRT_STREAM_CAPTURE_MODE_RELAXED));
    OK(infinirtGraphLaunch(inner, joined));
    CHECK(out[N - 1] == 0);
    outer = finish(joined);
    OK(infinirtGraphExecDestroy(inner));
    OK(infinirtGraphLaunch(outer, origin));
    CHECK(out[N - 1] == in[N - 1]);
    OK(infinirtGraphExecDestroy(outer));
    OK(infinirtEventDestroy(fork));
    OK(infinirtStreamDestroy(origin));
    OK(infinirtStreamDestroy(joined));
    OK(infiniopDestroyReluDescriptor(desc));
}

/* Two threads capture at once; a third works on a stream that is not capturing. */
static void *capture_and_replay(void *scale) {
    for (int round = 0; round < 50; ++round) {
        float in[N], out[N] = {0};
        infinirtStream_t stream;
        infinirtGraphExec_t exec;
        infiniopReluDescriptor_t desc = new_relu();
        OK(infinirtStreamCreate(&stream));
        fill(in, *(float *)scale);
        OK(infinirtStreamBeginCapture(stream, INFINIRT_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        OK(relu(desc, out, in, stream));
        CHECK(out[N - 1] == 0);
        exec = finish(stream);
        OK(infiniopDestroyReluDescriptor(desc));
        OK(infinirtGraphLaunch(exec, stream));
        CHECK(out[N - 1] == in[N - 1]);
        OK(infinirtGraphExecDestroy(exec));
        OK(infinirtStreamDestroy(stream));
    }
    return NULL;
}

static void *run_eagerly(void *unused) {
    infiniopReluDescriptor_t desc = new_relu();
    float in[N], out[N];
    infinirtStream_t stream;
    (void)unused;
    OK(infinirtStreamCreate(&stream));
    fill(in, 3);
    for (int round = 0; round < 2000; ++round) {
        out[N - 1] = 0;
        OK(relu(desc, out, in, round % 2 ? stream : NULL));
        CHECK(out[N - 1] == in[N - 1]);
    }
    OK(infinirtDeviceSynchronize()); /* captures of other threads do not hinder this one */
    OK(infinirtStreamDestroy(stream));
    OK(infiniopDestroyReluDescriptor(desc));
    return NULL;
}

static void threads(void) {
    float scales[2] = {1, 2};
    pthread_t thread[3];
    CHECK(pthread_create(&thread[0], NULL, capture_and_replay, &scales[0]) == 0);
    CHECK(pthread_create(&thread[1], NULL, capture_and_replay, &scales[1]) == 0);
    CHECK(pthread_create(&thread[2], NULL, run_eagerly, NULL) == 0);
    for (int i = 0; i < 3; ++i) {
        CHECK(pthread_join(thread[i], NULL) == 0);
    }
}

int main(void) {
    OK(infiniopCreateHandle(&handle));
    replay();
    refusals();
    error_in_replay();
    joined_and_nested();
    threads();
    OK(infiniopDestroyHandle(handle));
    puts("ok");
    return 0;
}
