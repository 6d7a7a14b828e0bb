// A device that brings graphs and collectives of its own: what the core hands through, and what it checks before.
#include <infiniccl.h>
#include <infiniop.h>
#include <infinirt.h>

#include <map>
#include <string>

#include "check.h"

namespace {

std::map<std::string, int> calls;
infiniStatus_t count(const char *name) {
    ++calls[name];
    return INFINI_STATUS_SUCCESS;
}
char objects[16];

infinirtRuntime make_runtime() {
    infinirtRuntime r{};
    r.struct_size = sizeof r;
    r.device_count = [](int *n) { return *n = 4, INFINI_STATUS_SUCCESS; };
    r.set_device = [](int id) { return id == 3 ? INFINI_STATUS_DEVICE_NOT_INITIALIZED : INFINI_STATUS_SUCCESS; };
    r.synchronize = [](int) { return static_cast<infiniStatus_t>(99); };
    r.malloc = [](int, void **p, size_t) { return *p = nullptr, INFINI_STATUS_SUCCESS; }; // says yes and gives nothing
    r.free = [](int, void *) { return INFINI_STATUS_SUCCESS; };
    r.memcpy = [](int, void *, const void *, size_t, infinirtMemcpyKind_t) { return INFINI_STATUS_INTERNAL_ERROR; };
    r.memcpy_async = [](int, void *, const void *, size_t, infinirtMemcpyKind_t, infinirtStream_t) {
        return count("memcpy_async");
    };
    r.memset = [](int, void *, int, size_t) { return INFINI_STATUS_SUCCESS; };
    r.memset_async = [](int, void *, int, size_t, infinirtStream_t) { return INFINI_STATUS_SUCCESS; };
    r.stream_create = [](int, infinirtStream_t *s) { return *s = &objects[0], INFINI_STATUS_SUCCESS; };
    r.stream_destroy = [](infinirtStream_t) { return INFINI_STATUS_SUCCESS; };
    r.stream_synchronize = [](int, infinirtStream_t) { return count("stream_synchronize"); };
    r.stream_wait_event = [](int, infinirtStream_t, infinirtEvent_t) { return INFINI_STATUS_SUCCESS; };
    r.event_create = [](int, infinirtEvent_t *e, uint32_t) { return *e = &objects[1], INFINI_STATUS_SUCCESS; };
    r.event_record = [](int, infinirtEvent_t, infinirtStream_t) { return INFINI_STATUS_SUCCESS; };
    r.event_query = [](infinirtEvent_t, infinirtEventStatus_t *) { return INFINI_STATUS_SUCCESS; };
    r.event_synchronize = [](infinirtEvent_t) { return INFINI_STATUS_SUCCESS; };
    r.event_elapsed = [](float *, infinirtEvent_t, infinirtEvent_t) { return INFINI_STATUS_SUCCESS; };
    r.event_destroy = [](infinirtEvent_t) { return INFINI_STATUS_SUCCESS; };
    r.begin_capture = [](int, infinirtStream_t, infinirtStreamCaptureMode_t) { return count("begin"); };
    r.end_capture = [](int, infinirtStream_t, infinirtGraph_t *g) { return *g = &objects[2], count("end"); };
    r.graph_destroy = [](infinirtGraph_t g) { return CHECK(g == &objects[2]), count("graph_destroy"); };
    r.graph_instantiate = [](infinirtGraphExec_t *e, infinirtGraph_t g, infinirtGraphNode_t *, char *, size_t) {
        return CHECK(g == &objects[2]), *e = &objects[3], count("instantiate");
    };
    r.graph_exec_destroy = [](infinirtGraphExec_t e) { return CHECK(e == &objects[3]), count("exec_destroy"); };
    r.graph_launch = [](infinirtGraphExec_t e, infinirtStream_t) { return CHECK(e == &objects[3]), count("launch"); };
    return r;
}

infinicclCollectives make_collectives() {
    infinicclCollectives c{};
    c.struct_size = offsetof(infinicclCollectives, reduce_scatter); // an older plugin: it has no reduce-scatter
    c.init_all = [](void **comms, int n, const int *) {
        for (int i = 0; i < n; ++i) {
            comms[i] = &objects[4 + i];
        }
        return count("init_all");
    };
    c.unique_id = [](infinicclUniqueId_t *id) { return id->internal[0] = 'x', INFINI_STATUS_SUCCESS; };
    c.init_rank = [](void **comm, int, int, infinicclUniqueId_t id, int) {
        return CHECK(id.internal[0] == 'x'), *comm = &objects[8], INFINI_STATUS_SUCCESS;
    };
    c.destroy = [](void *) { return count("comm_destroy"); };
    c.group_start = [] { return count("group_start"); };
    c.all_reduce = [](void *, void *, size_t n, infiniDtype_t, infinicclReduceOp_t, void *comm, infinirtStream_t) {
        return CHECK(n == 3 && comm == &objects[5]), count("all_reduce");
    };
    c.broadcast = [](const void *, void *, size_t, infiniDtype_t, int root, void *, infinirtStream_t) {
        return CHECK(root == 1), count("broadcast");
    };
    c.all_gather_v = [](void *, void *, const size_t *counts, int n, infiniDtype_t, void *, infinirtStream_t) {
        return CHECK(n == 2 && counts[1] == 7), count("all_gather_v");
    };
    return c;
}

struct Kernel {
    static infiniStatus_t create(void *, const infiniopCall *, void **state, size_t *) {
        *state = objects;
        return count("kernel_create");
    }
    static infiniStatus_t calculate(void *, const infiniopRun *) { return count("calculate"); }
    static void destroy(void *state) {
        CHECK(state == objects);
        count("kernel_destroy");
    }
};

void runtime_failures() {
    void *p = nullptr;
    char a = 0, b = 0;
    FAILS(INTERNAL_ERROR, "no memory for 8 bytes", infinirtMalloc(&p, 8));
    FAILS(INTERNAL_ERROR, "status 99, which is none", infinirtDeviceSynchronize());
    FAILS(INTERNAL_ERROR, "backend grapher answered INTERNAL_ERROR", infinirtMemcpy(&a, &b, 1, INFINIRT_MEMCPY_D2D));
    OK(infinirtMallocHost(&p, 8)); // the default: plain host memory
    OK(infinirtFreeHost(p));
}

void set_device_failure(infiniDevice_t device) {
    int id = -1;
    FAILS(DEVICE_NOT_INITIALIZED, "grapher", infinirtSetDevice(device, 3));
    OK(infinirtGetDevice(nullptr, &id));
    CHECK(id == 1);
}

void native_capture() {
    const size_t shape[] = {2};
    float in[2] = {}, out[2] = {};
    infiniopHandle_t handle;
    infiniopTensorDescriptor_t t;
    infiniopReluDescriptor_t desc;
    infinirtStream_t stream;
    infinirtGraph_t graph;
    infinirtGraphExec_t exec;
    OK(infiniopCreateHandle(&handle));
    OK(infiniopCreateTensorDescriptor(&t, 1, shape, nullptr, INFINI_DTYPE_F32));
    OK(infiniopCreateReluDescriptor(handle, &desc, t, t));
    OK(infinirtStreamCreate(&stream));
    OK(infinirtStreamBeginCapture(stream, INFINIRT_STREAM_CAPTURE_MODE_GLOBAL));
    OK(infiniopRelu(desc, nullptr, 0, out, in, stream));
    OK(infinirtMemcpyAsync(out, in, sizeof in, INFINIRT_MEMCPY_D2D, stream));
    CHECK(calls["calculate"] == 1 && calls["memcpy_async"] == 1); // the device's own capture sees the launches
    FAILS(BAD_PARAM, "capturing", infinirtStreamSynchronize(stream));
    OK(infinirtStreamEndCapture(stream, &graph));
    OK(infinirtGraphInstantiate(&exec, graph, nullptr, nullptr, 0));
    OK(infiniopDestroyReluDescriptor(desc));
    CHECK(calls["kernel_destroy"] == 0); // the graph still needs it
    OK(infinirtGraphLaunch(exec, stream));
    OK(infinirtGraphLaunch(exec, nullptr));
    CHECK(calls["launch"] == 2 && calls["calculate"] == 1);
    OK(infinirtGraphDestroy(graph));
    CHECK(calls["kernel_destroy"] == 0);
    OK(infinirtGraphExecDestroy(exec));
    CHECK(calls["kernel_destroy"] == 1 && calls["graph_destroy"] == 1 && calls["exec_destroy"] == 1);
    OK(infinirtStreamDestroy(stream));
    OK(infiniopDestroyTensorDescriptor(t));
    OK(infiniopDestroyHandle(handle));
}

void collectives(infiniDevice_t device) {
    const int ids[] = {0, 1};
    const size_t counts[] = {5, 7};
    float a[3] = {}, b[3] = {};
    infinicclComm_t comms[2], one;
    infinicclUniqueId_t id{};
    OK(infinicclCommInitAll(device, comms, 2, ids));
    CHECK(*reinterpret_cast<infiniDevice_t *>(comms[1]) == device && reinterpret_cast<int *>(comms[1])[1] == 1);
    FAILS(BAD_PARAM, "ndevice", infinicclCommInitAll(device, comms, 0, ids));
    FAILS(NULL_POINTER, "comms", infinicclCommInitAll(device, nullptr, 2, ids));
    FAILS(NULL_POINTER, "device_ids", infinicclCommInitAll(device, comms, 2, nullptr));
    const auto all_reduce = [&](void *send, infiniDtype_t dtype, int op, infinicclComm_t comm) {
        return infinicclAllReduce(send, b, 3, dtype, static_cast<infinicclReduceOp_t>(op), comm, nullptr);
    };
    OK(all_reduce(a, INFINI_DTYPE_F32, INFINICCL_AVG, comms[1]));
    FAILS(NULL_POINTER, "comm", all_reduce(a, INFINI_DTYPE_F32, INFINICCL_SUM, nullptr));
    FAILS(NULL_POINTER, "sendbuf", all_reduce(nullptr, INFINI_DTYPE_F32, INFINICCL_SUM, comms[1]));
    FAILS(BAD_TENSOR_DTYPE, "datatype", all_reduce(a, INFINI_DTYPE_F64, INFINICCL_SUM, comms[1]));
    FAILS(BAD_PARAM, "op", all_reduce(a, INFINI_DTYPE_F32, 5, comms[1]));
    FAILS(BAD_PARAM, "op", all_reduce(a, INFINI_DTYPE_F32, -1, comms[1]));
    OK(infinicclBroadcast(a, b, 3, INFINI_DTYPE_I64, 1, comms[0], nullptr));
    FAILS(BAD_PARAM, "root", infinicclBroadcast(a, b, 3, INFINI_DTYPE_I64, 2, comms[0], nullptr));
    FAILS(BAD_PARAM, "count", infinicclBroadcast(a, b, 0, INFINI_DTYPE_I64, 1, comms[0], nullptr));
    FAILS(NULL_POINTER, "recvbuf", infinicclBroadcast(a, nullptr, 3, INFINI_DTYPE_I64, 1, comms[0], nullptr));
    FAILS(NOT_IMPLEMENTED, "grapher does not have it", infinicclSend(a, 3, INFINI_DTYPE_F16, 1, comms[0], nullptr));
    FAILS(BAD_PARAM, "peer", infinicclSend(a, 3, INFINI_DTYPE_F16, -1, comms[0], nullptr));
    FAILS(BAD_PARAM, "count", infinicclRecv(a, 0, INFINI_DTYPE_F16, 1, comms[0], nullptr));
    OK(infinicclAllGatherV(a, b, counts, 2, INFINI_DTYPE_BF16, comms[0], nullptr));
    FAILS(BAD_PARAM, "nranks", infinicclAllGatherV(a, b, counts, 3, INFINI_DTYPE_BF16, comms[0], nullptr));
    FAILS(NULL_POINTER, "recv_counts", infinicclAllGatherV(a, b, nullptr, 2, INFINI_DTYPE_BF16, comms[0], nullptr));
    FAILS(NOT_IMPLEMENTED, "infinicclReduceScatter",
          infinicclReduceScatter(a, b, 1, INFINI_DTYPE_U32, INFINICCL_SUM, comms[0], nullptr));
    FAILS(NULL_POINTER, "send_counts",
          infinicclReduceScatterV(a, b, nullptr, 2, INFINI_DTYPE_U32, INFINICCL_SUM, comms[0], nullptr));
    FAILS(NOT_IMPLEMENTED, "infinicclAllGather", infinicclAllGather(a, b, 1, INFINI_DTYPE_F32, comms[0], nullptr));
    OK(infinicclGroupStart(comms[0]));
    FAILS(NOT_IMPLEMENTED, "infinicclGroupEnd", infinicclGroupEnd(comms[0]));
    FAILS(NULL_POINTER, "comm", infinicclGroupStart(nullptr));
    OK(infinicclGetUniqueId(&id));
    FAILS(NULL_POINTER, "unique_id", infinicclGetUniqueId(nullptr));
    OK(infinicclCommInitRank(&one, 2, id, 1));
    FAILS(BAD_PARAM, "rank", infinicclCommInitRank(&one, 2, id, 2));
    FAILS(BAD_PARAM, "nranks", infinicclCommInitRank(&one, 0, id, 0));
    FAILS(NULL_POINTER, "comm", infinicclCommInitRank(nullptr, 2, id, 1));
    OK(infinicclCommDestroy(one));
    OK(infinicclCommDestroy(comms[0]));
    OK(infinicclCommDestroy(comms[1]));
    OK(infinicclCommDestroy(nullptr));
    CHECK(calls["comm_destroy"] == 3);
}

// A graph keeps the communicator that it uses, whether the device records or the core.
void captured_collective(infiniDevice_t device) {
    const int ids[] = {0, 1}, before = calls["comm_destroy"], sums = calls["all_reduce"];
    float a[3] = {}, b[3] = {};
    infinicclComm_t comms[2];
    infinirtStream_t stream;
    infinirtGraph_t graph;
    infinirtGraphExec_t exec;
    OK(infinicclCommInitAll(device, comms, 2, ids));
    OK(infinirtStreamCreate(&stream));
    OK(infinirtStreamBeginCapture(stream, INFINIRT_STREAM_CAPTURE_MODE_GLOBAL));
    OK(infinicclAllReduce(a, b, 3, INFINI_DTYPE_F32, INFINICCL_SUM, comms[1], stream));
    OK(infinirtStreamEndCapture(stream, &graph));
    OK(infinirtGraphInstantiate(&exec, graph, nullptr, nullptr, 0));
    OK(infinicclCommDestroy(comms[0]));
    OK(infinicclCommDestroy(comms[1]));
    CHECK(calls["comm_destroy"] == before + 1);
    OK(infinirtGraphLaunch(exec, stream));
    CHECK(calls["all_reduce"] == sums + 1);
    OK(infinirtGraphDestroy(graph));
    OK(infinirtGraphExecDestroy(exec));
    CHECK(calls["comm_destroy"] == before + 2);
    OK(infinirtStreamDestroy(stream));
}

void no_collectives_on_the_cpu() {
    infinicclComm_t comm;
    infinicclUniqueId_t id{};
    const int ids[] = {0};
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "cpu", infinicclCommInitAll(INFINI_DEVICE_CPU, &comm, 1, ids));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "777", infinicclCommInitAll(static_cast<infiniDevice_t>(777), &comm, 1, ids));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "cpu", infinicclGetUniqueId(&id));
    FAILS(DEVICE_TYPE_NOT_SUPPORTED, "cpu", infinicclCommInitRank(&comm, 1, id, 0));
}

} // namespace

int main() {
    const infinirtRuntime runtime = make_runtime();
    const infinicclCollectives collective_table = make_collectives();
    infiniopKernel relu{};
    relu.struct_size = sizeof relu;
    relu.op = "relu";
    relu.schema_version = 1;
    relu.create = Kernel::create;
    relu.calculate = Kernel::calculate;
    relu.destroy = Kernel::destroy;
    const infiniopKernel *const kernels[] = {&relu};
    const infiniopBackend backend{sizeof backend, INFINIOP_BACKEND_ABI_MAJOR, 0, "grapher", "graphdev", "1", 0, 0,
                                  &runtime,       &collective_table,          1, kernels};
    no_collectives_on_the_cpu();
    OK(infiniopRegisterBackend(&backend));
    infiniDevice_t device;
    OK(infiniopGetDeviceByName("graphdev", &device));
    OK(infinirtSetDevice(device, 1));
    set_device_failure(device);
    runtime_failures();
    native_capture();
    collectives(device);
    captured_collective(device);
    puts("ok");
}
