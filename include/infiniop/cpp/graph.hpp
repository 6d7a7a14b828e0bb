// Capture and replay on any device: calls on a capturing stream become a graph, which runs them again in one call.
//
//     infiniop::Capture capture(stream);
//     infiniop::relu(y, x, {stream});
//     infiniop::Graph graph = capture.end();
//     graph.launch(stream);
#pragma once

#include <algorithm>
#include <vector>

#include "runtime.hpp"

namespace infiniop {

// What a capture recorded, ready to run. Owns the workspaces of the operator functions that were recorded; memory that
// the caller gave must live as long as the graph.
class Graph {
public:
    Result<void> launch(nothrow_t, StreamRef stream) const {
        return detail::done(nothrow, infinirtGraphLaunch(get(), stream.get()));
    }
    void launch(StreamRef stream = {}) const { detail::value(launch(nothrow, stream)); }

    infinirtGraphExec_t get() const noexcept { return exec_.get(); }

private:
    friend class Capture;
    std::vector<Memory<>> workspaces_;
    std::unique_ptr<void, detail::Destroy<infinirtGraphExecDestroy>> exec_;
};

namespace detail {

struct CaptureState {
    infinirtStream_t stream;
    std::vector<Memory<>> workspaces;
};

// The captures that the calling thread has begun.
inline std::vector<CaptureState *> &captures() {
    static thread_local std::vector<CaptureState *> open;
    return open;
}

} // namespace detail

// A stream that captures, until end(); what is not ended is dropped. It begins and ends on one thread.
class Capture {
public:
    explicit Capture(const Stream &stream, infinirtStreamCaptureMode_t mode = INFINIRT_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        : Capture(detail::value(create(nothrow, stream, mode))) {}
    static Result<Capture> create(nothrow_t, const Stream &stream,
                                  infinirtStreamCaptureMode_t mode = INFINIRT_STREAM_CAPTURE_MODE_THREAD_LOCAL) {
        if (const infiniStatus_t status = infinirtStreamBeginCapture(stream.get(), mode)) {
            return detail::failed(nothrow, status);
        }
        return Capture(stream.get());
    }
    Capture(Capture &&) noexcept = default;
    Capture &operator=(Capture &&) = delete;
    ~Capture() {
        if (state_) {
            drop();
        }
    }

    // Once. A capture that cannot be ended is over all the same.
    Result<Graph> end(nothrow_t) {
        const std::unique_ptr<detail::CaptureState> state = forget();
        infinirtGraph_t recorded = nullptr;
        if (const infiniStatus_t status = infinirtStreamEndCapture(state ? state->stream : nullptr, &recorded)) {
            return detail::failed(nothrow, status);
        }
        const std::unique_ptr<void, detail::Destroy<infinirtGraphDestroy>> owned(recorded);
        infinirtGraphExec_t exec = nullptr;
        if (const infiniStatus_t status = infinirtGraphInstantiate(&exec, recorded, nullptr, nullptr, 0)) {
            return detail::failed(nothrow, status);
        }
        Graph graph;
        graph.exec_.reset(exec);
        graph.workspaces_ = std::move(state->workspaces);
        return graph;
    }
    Graph end() { return detail::value(end(nothrow)); }

private:
    explicit Capture(infinirtStream_t stream) : state_(new detail::CaptureState{stream, {}}) {
        detail::captures().push_back(state_.get());
    }
    std::unique_ptr<detail::CaptureState> forget() {
        std::vector<detail::CaptureState *> &open = detail::captures();
        open.erase(std::remove(open.begin(), open.end(), state_.get()), open.end());
        return std::move(state_);
    }
    void drop() {
        const std::unique_ptr<detail::CaptureState> state = forget();
        infinirtGraph_t graph = nullptr;
        if (infinirtStreamEndCapture(state->stream, &graph) == detail::success) {
            infinirtGraphDestroy(graph);
        }
    }

    std::unique_ptr<detail::CaptureState> state_;
};

} // namespace infiniop
