// The C++ layer with errors as values. NAME is the function: main where this is the whole program (without exceptions),
// and one per C++ standard where standards.cpp calls them all in one program.
#include <infiniop.hpp>

#include "check.h"

using infiniop::nothrow;

namespace {

infiniop::Result<float> sum_of_products(size_t size) {
    const infiniop::Result<infiniop::Handle> handle = infiniop::Handle::create(nothrow);
    if (!handle) {
        return infiniop::Unexpected(handle.error());
    }
    const float x[] = {1, 2, 3}, w[] = {4, 5, 6};
    float y = 0;
    const auto row = infiniop::Layout::of<float>({1, 3});
    auto linear = infiniop::Linear::create(nothrow, *handle, infiniop::Layout::of<float>({1, 1}), row,
                                           infiniop::Layout::of<float>({1, size}));
    if (!linear) {
        return infiniop::Unexpected(linear.error());
    }
    if (const auto done = (*linear)(nothrow, &y, x, w, nullptr); !done) {
        return infiniop::Unexpected(done.error());
    }
    return y;
}

} // namespace

int NAME() {
    const infiniop::Result<float> good = sum_of_products(3), bad = sum_of_products(2);
    CHECK(good && *good == 32);
    CHECK(!bad && bad.error().status() == INFINI_STATUS_BAD_TENSOR_SHAPE && bad.error().argument() == "weight");
    float x[] = {-1, 1};
    infiniop::Result<void> result = infiniop::relu(nothrow, {x, {2}}, {x, {2}});
    CHECK(result && x[0] == 0 && x[1] == 1);
    result = infiniop::relu(nothrow, {x, {2}}, {x, {1}});
    CHECK(!result && result.error().op() == "relu" && *result.error().what());
    auto stream = infiniop::Stream::create(nothrow);
    CHECK(stream && stream->synchronize(nothrow));
    auto capture = infiniop::Capture::create(nothrow, *stream);
    CHECK(capture && infiniop::relu(nothrow, {x, {2}}, {x, {2}}, {*stream}));
    x[0] = -2;
    const auto graph = capture->end(nothrow);
    CHECK(graph && x[0] == -2 && graph->launch(nothrow, *stream) && x[0] == 0);
    const auto memory = infiniop::Memory<float>::create(nothrow, 2);
    CHECK(memory && memory->upload(nothrow, x) && memory->download(nothrow, x) && x[1] == 1);
    CHECK(infiniop::backends(nothrow)->size() >= 1 && infiniop::current_device(nothrow)->id == 0);
    puts("ok");
    return 0;
}
