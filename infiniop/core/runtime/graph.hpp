// Capture: calls on a capturing stream become nodes of a graph, which replays them in one call.
#pragma once

#include <atomic>
#include <functional>

#include "devices.hpp"

namespace [[gnu::visibility("default")]] infini {

// One recorded call; it owns what it needs.
using Node = std::function<infiniStatus_t(infinirtStream_t)>;

// Streams that are capturing now, in the whole process: keeps the hot path free of look-ups.
extern std::atomic<int> capturing_streams;

bool is_capturing_slow(infinirtStream_t stream);
inline bool is_capturing(infinirtStream_t stream) {
    return __builtin_expect(capturing_streams.load(std::memory_order_relaxed) != 0, 0) && is_capturing_slow(stream);
}

// On a capturing stream: keep the call. Where the device has graphs of its own the call is made too, and the graph
// keeps alive what it used.
infiniStatus_t capture(const char *op, infinirtStream_t stream, Node node);

// Whether this thread captures on a stream of the device.
bool captures_here(const Device &device);
void captured_event(infinirtStream_t stream, infinirtEvent_t event);
// A stream that waits for an event of a capture takes part in it.
void join_capture(infinirtStream_t stream, infinirtEvent_t event, const Device &device);

} // namespace infini
