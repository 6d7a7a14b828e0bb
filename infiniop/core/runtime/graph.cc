#include "graph.hpp"

#include <mutex>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "streams.hpp"
#include "verification.hpp"

namespace infini {

std::atomic<int> capturing_streams{0};

namespace {

struct Capture {
    infinirtStream_t origin;
    Device device;
    bool native;
    std::thread::id thread;
    std::vector<Node> nodes;
    std::unordered_set<infinirtEvent_t> events;
};

struct Captures {
    std::mutex mutex;
    std::unordered_map<infinirtStream_t, std::shared_ptr<Capture>> by_stream;
};

Captures &captures() {
    static Captures *const forever = new Captures;
    return *forever;
}

std::shared_ptr<Capture> find_capture(infinirtStream_t stream) {
    const std::lock_guard lock(captures().mutex);
    const auto found = captures().by_stream.find(stream);
    return found == captures().by_stream.end() ? nullptr : found->second;
}

void end(const std::shared_ptr<Capture> &capture) {
    const std::lock_guard lock(captures().mutex);
    auto &all = captures().by_stream;
    for (auto it = all.begin(); it != all.end();) {
        it = it->second == capture ? (--capturing_streams, all.erase(it)) : std::next(it);
    }
}

// What infinirtGraph_t and infinirtGraphExec_t point to.
constexpr uint64_t graph_magic = 0x696e666772617068, exec_magic = 0x696e666765786563;

struct Recording {
    Device device;
    bool native;
    std::vector<Node> nodes;
};

template <uint64_t Magic, class Native> struct Wrapped {
    uint64_t magic = Magic;
    std::shared_ptr<const Recording> recording;
    Native native = nullptr;
};
using Graph = Wrapped<graph_magic, infinirtGraph_t>;
using Exec = Wrapped<exec_magic, infinirtGraphExec_t>;

template <class Object> infiniStatus_t check(const char *op, const char *argument, const void *object, uint64_t magic) {
    if (!object) {
        return fail_null(op, argument);
    }
    return static_cast<const Object *>(object)->magic == magic
               ? INFINI_STATUS_SUCCESS
               : fail(INFINI_STATUS_BAD_PARAM, op, argument, "what infinirt gave out as one", "something else");
}

infiniStatus_t replay(const Recording &recording, infinirtStream_t stream) {
    for (const Node &node : recording.nodes) {
        if (const infiniStatus_t status = node(stream)) {
            return status;
        }
    }
    return INFINI_STATUS_SUCCESS;
}

infiniStatus_t launch(const char *op, const Exec &exec, infinirtStream_t stream) {
    const Recording &recording = *exec.recording;
    if (!recording.native) {
        return replay(recording, stream);
    }
    return on(recording.device, op, [&](const infinirtRuntime &r, int) { return r.graph_launch(exec.native, stream); });
}

} // namespace

bool is_capturing_slow(infinirtStream_t stream) { return stream && find_capture(stream); }

infiniStatus_t capture(const char *op, infinirtStream_t stream, Node node) {
    const std::shared_ptr<Capture> capture = find_capture(stream);
    if (!capture) {
        return fail(INFINI_STATUS_BAD_PARAM, op, "the stream has just ended its capture");
    }
    if (capture->native) {
        if (const infiniStatus_t status = node(stream)) {
            return status;
        }
    }
    const std::lock_guard lock(captures().mutex);
    capture->nodes.push_back(std::move(node));
    return INFINI_STATUS_SUCCESS;
}

bool captures_here(const Device &device) {
    if (capturing_streams.load(std::memory_order_relaxed) == 0) {
        return false;
    }
    const std::lock_guard lock(captures().mutex);
    for (const auto &[stream, capture] : captures().by_stream) {
        if (capture->thread == std::this_thread::get_id() && capture->device == device) {
            return true;
        }
    }
    return false;
}

void captured_event(infinirtStream_t stream, infinirtEvent_t event) {
    if (const std::shared_ptr<Capture> capture = find_capture(stream)) {
        const std::lock_guard lock(captures().mutex);
        capture->events.insert(event);
    }
}

void join_capture(infinirtStream_t stream, infinirtEvent_t event, const Device &device) {
    if (!stream || capturing_streams.load(std::memory_order_relaxed) == 0) {
        return;
    }
    const std::lock_guard lock(captures().mutex);
    auto &all = captures().by_stream;
    if (all.count(stream)) {
        return;
    }
    for (const auto &[origin, capture] : all) {
        if (capture->device == device && capture->events.count(event)) {
            const std::shared_ptr<Capture> joined = capture;
            all.emplace(stream, joined);
            ++capturing_streams;
            return;
        }
    }
}

} // namespace infini

using namespace infini;

infiniStatus_t infinirtStreamBeginCapture(infinirtStream_t stream, infinirtStreamCaptureMode_t mode) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtStreamBeginCapture";
        if (raw(mode) < INFINIRT_STREAM_CAPTURE_MODE_GLOBAL || raw(mode) > INFINIRT_STREAM_CAPTURE_MODE_RELAXED) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "mode", "0, 1 or 2", std::to_string(raw(mode)));
        }
        if (!stream) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "stream", "a stream that was created",
                        "NULL: the default stream cannot be captured");
        }
        Device device;
        if (const infiniStatus_t status = stream_device(op, stream, &device)) {
            return status;
        }
        // Shadow mode looks at each call of a replay: the core must make them.
        const bool native = device.backend->runtime.begin_capture != nullptr && !verification();
        const auto capture =
            std::make_shared<Capture>(Capture{stream, device, native, std::this_thread::get_id(), {}, {}});
        const std::lock_guard lock(captures().mutex);
        if (captures().by_stream.count(stream)) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "stream", "one that is not capturing", "one that is");
        }
        if (native) {
            const infiniStatus_t status =
                on(device, op, [&](const infinirtRuntime &r, int id) { return r.begin_capture(id, stream, mode); });
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        captures().by_stream.emplace(stream, capture);
        ++capturing_streams;
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t infinirtStreamEndCapture(infinirtStream_t stream, infinirtGraph_t *graph_ptr) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtStreamEndCapture";
        if (!graph_ptr) {
            return fail_null(op, "graph_ptr");
        }
        const std::shared_ptr<Capture> capture = find_capture(stream);
        if (!capture || capture->origin != stream) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "stream", "the stream on which the capture began",
                        capture ? "one that joined it" : "one that is not capturing");
        }
        auto graph = std::make_unique<Graph>();
        end(capture);
        if (capture->native) {
            const infiniStatus_t status = on(capture->device, op, [&](const infinirtRuntime &r, int id) {
                return r.end_capture(id, stream, &graph->native);
            });
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        }
        graph->recording =
            std::make_shared<Recording>(Recording{capture->device, capture->native, std::move(capture->nodes)});
        *graph_ptr = graph.release();
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t infinirtStreamIsCapturing(infinirtStream_t stream, int *capturing) {
    return guarded(__func__, [&] {
        if (!capturing) {
            return fail_null("infinirtStreamIsCapturing", "capturing");
        }
        *capturing = is_capturing(stream);
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t infinirtGraphDestroy(infinirtGraph_t graph) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtGraphDestroy";
        if (!graph) {
            return INFINI_STATUS_SUCCESS;
        }
        if (const infiniStatus_t status = check<Graph>(op, "graph", graph, graph_magic)) {
            return status;
        }
        Graph *ours = static_cast<Graph *>(graph);
        infiniStatus_t status = INFINI_STATUS_SUCCESS;
        if (ours->recording->native) {
            status = on(ours->recording->device, op,
                        [&](const infinirtRuntime &r, int) { return r.graph_destroy(ours->native); });
        }
        delete ours;
        return status;
    });
}

infiniStatus_t infinirtGraphInstantiate(infinirtGraphExec_t *graph_exec_ptr, infinirtGraph_t graph,
                                        infinirtGraphNode_t *node_ptr, char *log_buffer, size_t buffer_size) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtGraphInstantiate";
        if (!graph_exec_ptr) {
            return fail_null(op, "graph_exec_ptr");
        }
        if (const infiniStatus_t status = check<Graph>(op, "graph", graph, graph_magic)) {
            return status;
        }
        const Graph &ours = *static_cast<const Graph *>(graph);
        auto exec = std::make_unique<Exec>();
        exec->recording = ours.recording;
        if (ours.recording->native) {
            const infiniStatus_t status = on(ours.recording->device, op, [&](const infinirtRuntime &r, int) {
                return r.graph_instantiate(&exec->native, ours.native, node_ptr, log_buffer, buffer_size);
            });
            if (status != INFINI_STATUS_SUCCESS) {
                return status;
            }
        } else {
            if (node_ptr) {
                *node_ptr = nullptr;
            }
            if (log_buffer && buffer_size) {
                log_buffer[0] = '\0';
            }
        }
        *graph_exec_ptr = exec.release();
        return INFINI_STATUS_SUCCESS;
    });
}

infiniStatus_t infinirtGraphExecDestroy(infinirtGraphExec_t graph_exec) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtGraphExecDestroy";
        if (!graph_exec) {
            return INFINI_STATUS_SUCCESS;
        }
        if (const infiniStatus_t status = check<Exec>(op, "graph_exec", graph_exec, exec_magic)) {
            return status;
        }
        Exec *ours = static_cast<Exec *>(graph_exec);
        infiniStatus_t status = INFINI_STATUS_SUCCESS;
        if (ours->recording->native) {
            status = on(ours->recording->device, op,
                        [&](const infinirtRuntime &r, int) { return r.graph_exec_destroy(ours->native); });
        }
        delete ours;
        return status;
    });
}

infiniStatus_t infinirtGraphLaunch(infinirtGraphExec_t graph_exec, infinirtStream_t stream) {
    return guarded(__func__, [&] {
        constexpr const char *op = "infinirtGraphLaunch";
        if (const infiniStatus_t status = check<Exec>(op, "graph_exec", graph_exec, exec_magic)) {
            return status;
        }
        const Exec &exec = *static_cast<const Exec *>(graph_exec);
        Device device;
        if (const infiniStatus_t status = stream_device(op, stream, &device)) {
            return status;
        }
        if (device != exec.recording->device) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "stream", "a stream of " + describe(exec.recording->device),
                        "a stream of " + describe(device));
        }
        if (is_capturing(stream)) {
            return capture(op, stream, [exec](infinirtStream_t on_stream) { return launch(op, exec, on_stream); });
        }
        return launch(op, exec, stream);
    });
}

infiniStatus_t infinirtGraphLuanch(infinirtGraphExec_t graph_exec, infinirtStream_t stream) {
    return infinirtGraphLaunch(graph_exec, stream);
}
