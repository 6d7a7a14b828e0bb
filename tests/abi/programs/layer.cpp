// The C++ layer: views, operator functions, descriptors, what they keep, capture, and errors as exceptions.
#include "layer.h"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

using infiniop::ConstTensor;
using infiniop::Layout;
using infiniop::nothrow;
using infiniop::Tensor;

static_assert(infiniop::dtype_of<long>::value == INFINI_DTYPE_I64);
static_assert(infiniop::dtype_of<long long>::value == INFINI_DTYPE_I64);
static_assert(infiniop::dtype_of<signed char>::value == INFINI_DTYPE_I8);
static_assert(infiniop::dtype_of<unsigned char>::value == INFINI_DTYPE_U8);
static_assert(infiniop::dtype_of<unsigned>::value == INFINI_DTYPE_U32);
static_assert(infiniop::dtype_of<bool>::value == INFINI_DTYPE_BOOL);
static_assert(infiniop::dtype_of<infiniop::bfloat16>::value == INFINI_DTYPE_BF16);
static_assert(!std::is_constructible_v<Tensor, const float *, infiniop::Shape>, "an output is not const");
static_assert(!std::is_convertible_v<ConstTensor, Tensor>);
static_assert(!std::is_convertible_v<void *, infiniop::StreamRef>, "a pointer too many is no stream");

constexpr size_t nblocks = 3, nkvh = 2, block_size = 4, dh = 8, ntok = 4;

struct Pages {
    std::vector<float> k_cache = std::vector<float>(nblocks * nkvh * block_size * dh), v_cache = k_cache;
    std::vector<float> k = std::vector<float>(ntok * nkvh * dh), v = k;
    std::vector<int64_t> slots{9, -1, 0, 6};

    Pages() {
        for (size_t i = 0; i < k.size(); ++i) {
            k[i] = 1.0f + static_cast<float>(i);
            v[i] = -k[i];
        }
    }
    Tensor cache(std::vector<float> &memory) const { return {memory.data(), {nblocks, nkvh, block_size, dh}}; }
    ConstTensor rows(const std::vector<float> &memory) const { return {memory.data(), {ntok, nkvh, dh}}; }
    ConstTensor mapping() const { return {slots.data(), {slots.size()}}; }

    void check() const {
        size_t written = 0;
        for (size_t n = 0; n < ntok; ++n) {
            for (size_t i = 0; slots[n] >= 0 && i < nkvh * dh; ++i, ++written) {
                const size_t slot = static_cast<size_t>(slots[n]), h = i / dh;
                const size_t to = ((slot / block_size * nkvh + h) * block_size + slot % block_size) * dh + i % dh;
                CHECK(k_cache[to] == k[n * nkvh * dh + i] && v_cache[to] == v[n * nkvh * dh + i]);
            }
        }
        const auto zeros = std::count(k_cache.begin(), k_cache.end(), 0.0f);
        CHECK(static_cast<size_t>(zeros) == k_cache.size() - written);
    }
};

template <class Call> infiniop::Error thrown_by(Call &&call) {
    try {
        call();
    } catch (const infiniop::Error &error) {
        return error;
    }
    fprintf(stderr, "nothing was thrown; last error: %s\n", infiniopGetLastError());
    exit(1);
}

void views() {
    int rows = 2;
    float data[24] = {};
    const Tensor t(data, {rows, 3, int64_t{4}});
    CHECK(t.rank() == 3 && t.shape()[0] == 2 && t.strides()[0] == 12 && t.strides()[2] == 1);
    CHECK(t.dtype() == INFINI_DTYPE_F32 && t.data() == data && t.given());
    const std::vector<long> shape{2, 3};
    const ConstTensor from_vector(data, shape, {-4, 1});
    CHECK(from_vector.shape()[1] == 3 && from_vector.strides()[0] == -4);
    const Tensor scalar(data, {});
    CHECK(scalar.rank() == 0 && scalar.given() && !Tensor().given());
    const Tensor untyped(static_cast<void *>(data), Layout(INFINI_DTYPE_F16, {8}));
    CHECK(untyped.dtype() == INFINI_DTYPE_F16 && untyped.shape()[0] == 8);
    const std::string too_long = thrown_by([&] { infiniop::relu({data, {1, 1, 1, 1, 1, 1, 1, 1, 1}}, t); }).what();
    CHECK(too_long == "infiniop::Layout: shape: expected 8 axes at most, got 9");
    const infiniop::Error strides = thrown_by([&] { infiniop::relu({data, {2, 2}, {1}}, t); });
    CHECK(strides.status() == INFINI_STATUS_BAD_TENSOR_STRIDES && strides.got() == "1");
}

void functions() {
    Pages p;
    infiniop::paged_caching(p.cache(p.k_cache), p.cache(p.v_cache), p.rows(p.k), p.rows(p.v), p.mapping());
    p.check();
    const float x[] = {1, 2, 3, 4}, w[] = {1, 2, 3, 4}, bias[] = {0.5f, 0.25f};
    float y[2] = {};
    infiniop::linear({y, {1, 2}}, {x, {1, 2}}, {w, {2, 2}});
    CHECK(y[0] == 5 && y[1] == 11);
    infiniop::Linear::Options options;
    options.bias = {bias, {2}};
    infiniop::linear({y, {1, 2}}, {x, {1, 2}}, {w, {2, 2}}, options);
    CHECK(y[0] == 5.5f && y[1] == 11.25f);
    float c[4] = {1, 1, 1, 1};
    infiniop::gemm({c, {2, 2}}, {x, {2, 2}}, {w, {2, 2}}, {2.0f, 1.0f});
    CHECK(c[0] == 15 && c[1] == 21 && c[2] == 31 && c[3] == 45);
    float best[2];
    int64_t where[2];
    infiniop::topk({best, {2}}, {where, {2}}, {x, {4}}, 2, 0);
    CHECK(best[0] == 4 && best[1] == 3 && where[0] == 3 && where[1] == 2);
    infiniop::topk({best, {2}}, {where, {2}}, {x, {4}}, 2, 0, {false});
    CHECK(best[0] == 1 && best[1] == 2);
    int32_t token = -1;
    infiniop::random_sample({&token, {}}, {x, {4}}, 0.0f);
    CHECK(token == 3);
}

void errors() {
    Pages p;
    p.slots[1] = nblocks * block_size;
    const infiniop::Error value = thrown_by([&] {
        infiniop::paged_caching(p.cache(p.k_cache), p.cache(p.v_cache), p.rows(p.k), p.rows(p.v), p.mapping());
    });
    CHECK(value.status() == INFINI_STATUS_BAD_PARAM && value.op() == "paged_caching");
    CHECK(value.argument() == "slot_mapping" && !value.expected().empty() && !value.got().empty());
    CHECK(std::string(value.what()).find("slot_mapping") != std::string::npos);
    const infiniop::Error shape = thrown_by([&] {
        infiniop::paged_caching(p.cache(p.k_cache), p.cache(p.v_cache), {p.k.data(), {ntok, nkvh, dh - 1}}, p.rows(p.v),
                                p.mapping());
    });
    CHECK(shape.status() == INFINI_STATUS_BAD_TENSOR_SHAPE && shape.argument() == "k");
    const infiniop::Error absent = thrown_by([&] { infiniop::relu(Tensor(), {p.k.data(), {2}}); });
    CHECK(absent.status() == INFINI_STATUS_NULL_POINTER && absent.argument() == "y");
    const infiniop::Error null =
        thrown_by([&] { infiniop::relu({p.k.data(), {2}}, {static_cast<float *>(nullptr), {2}}); });
    CHECK(null.status() == INFINI_STATUS_NULL_POINTER && null.argument() == "x");
    const infiniop::Error backend = thrown_by([] { infiniop::Handle("nobody"); });
    CHECK(backend.argument() == "backend" && backend.got() == "nobody");
    const infiniop::Error copy = backend; // the sentences outlive the call, and other failures
    CHECK(copy.got() == "nobody" && dynamic_cast<const std::exception *>(&copy));

    // The same calls, errors as values.
    const auto result =
        infiniop::paged_caching(nothrow, p.cache(p.k_cache), p.cache(p.v_cache), p.rows(p.k), p.rows(p.v), p.mapping());
    CHECK(!result && result.error().argument() == "slot_mapping");
    CHECK(infiniop::relu(nothrow, {p.k.data(), {2}}, {p.v.data(), {2}}));
    const auto handle = infiniop::Handle::create(nothrow, "nobody");
    CHECK(!handle.has_value() && handle.error().status() == INFINI_STATUS_BAD_PARAM);
    CHECK(infiniop::device_count(nothrow, INFINI_DEVICE_CPU).has_value());
    CHECK(!infiniop::device_type(nothrow, "teapot"));
}

void descriptors() {
    Pages p;
    const infiniop::Handle handle;
    infiniop::PagedCaching made(handle, p.cache(p.k_cache), p.cache(p.v_cache), p.rows(p.k), p.rows(p.v), p.mapping());
    infiniop::PagedCaching op = std::move(made);
    CHECK(op.workspace_size() == 0 && std::string(op.backend()) == "cpu" && op.device() == infiniop::Device());
    op.run({}, p.k_cache.data(), p.v_cache.data(), p.k.data(), p.v.data(), p.slots.data());
    p.check();
    p.k_cache.assign(p.k_cache.size(), 0);
    op(p.k_cache.data(), p.v_cache.data(), p.k.data(), p.v.data(), p.slots.data());
    p.check();
    CHECK(!op.run(nothrow, {}, nullptr, p.v_cache.data(), p.k.data(), p.v.data(), p.slots.data()));

    const infiniop::Handle counting("counting");
    float a[] = {1, 2}, b[] = {3, 4}, c[2];
    {
        const Layout two = Layout::of<float>({2});
        infiniop::Add add(counting, two, two, two);
        CHECK(add.workspace_size() == counting::workspace_bytes);
        CHECK(thrown_by([&] { add.run({}, c, a, b); }).status() == INFINI_STATUS_INSUFFICIENT_WORKSPACE);
        const infiniop::Memory<> workspace(add.workspace_size());
        add.run(workspace, c, a, b);
        CHECK(c[1] == 6 && counting::last_workspace == workspace.data());
        add(c, a, b);
        CHECK(counting::last_workspace != workspace.data());
        add = infiniop::Add(counting, two, two, two); // the old one goes
        CHECK(counting::destroyed == 1);
    }
    CHECK(counting::created == 2 && counting::destroyed == 2);
    const auto refused = infiniop::Add::create(nothrow, counting, Layout::of<float>({2}), Layout::of<float>({3}),
                                               Layout::of<float>({2}));
    CHECK(!refused && refused.error().status() == INFINI_STATUS_BAD_TENSOR_SHAPE && counting::created == 2);
    infiniop::TopK topk(handle, Layout::of<float>({1}), Layout::of<int64_t>({1}), Layout::of<float>({2}), 1, 0);
    float best;
    int64_t where;
    topk(&best, &where, a); // k, dim, largest and sorted are the descriptor's
    CHECK(best == 2 && where == 1);
}

// Calls add of `n` elements on the counting backend.
void add(size_t n, infiniop::StreamRef stream = {}) {
    std::vector<float> a(n, 1.0f), b(n, 2.0f), c(n);
    infiniop::add({c.data(), {n}}, {a.data(), {n}}, {b.data(), {n}}, {stream, "counting"});
    CHECK(std::all_of(c.begin(), c.end(), [](float x) { return x == 3; }));
}

void kept_descriptors() {
    const int before = counting::created;
    for (int i = 0; i < 5; ++i) {
        add(3);
    }
    CHECK(counting::created == before + 1);
    void *const first = counting::last_workspace;
    const infiniop::Stream stream;
    add(3, stream); // workspaces are not shared between streams
    CHECK(counting::created == before + 2 && counting::last_workspace != first);
    float a[8] = {1, 0, 2, 0}, b[2] = {1, 1}, c[2];
    infiniop::add({c, {2}}, {a, {2}, {2}}, {b, {2}}, {{}, "counting"});
    infiniop::add({c, {2}}, {a, {2}, {1}}, {b, {2}}, {{}, "counting"});
    infiniop::add({c, {2}}, {a, {2}}, {b, {2}}, {{}, std::string("counting").c_str()});
    CHECK(counting::created == before + 4); // one per layout, whatever the name's address
    infiniop::add({c, {2}}, {a, {2}}, {b, {2}});
    CHECK(counting::created == before + 4); // the cpu backend served that

    std::thread([] { // a thread keeps its own, and they go with it
        const int made = counting::created, gone = counting::destroyed;
        std::thread([] { add(3); }).join();
        CHECK(counting::created == made + 1 && counting::destroyed == gone + 1);
        for (size_t n = 1; n <= 200; ++n) {
            add(n);
        }
        CHECK(counting::created - counting::destroyed <= made - gone + 64);
        add(200);
        CHECK(counting::created == made + 1 + 200);
    })
        .join();
    CHECK(counting::calculated > 200);
}

void many_threads() {
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 4; ++t) {
        threads.emplace_back([t] {
            const infiniop::Stream stream;
            for (size_t i = 0; i < 300; ++i) {
                add(1 + (i * (t + 1)) % 90, i % 2 ? infiniop::StreamRef(stream) : nullptr);
                Pages p;
                infiniop::paged_caching(p.cache(p.k_cache), p.cache(p.v_cache), p.rows(p.k), p.rows(p.v), p.mapping());
                p.check();
                CHECK(!infiniop::relu(nothrow, {p.k.data(), {t + 1}}, {p.k.data(), {t + 2}}));
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
}

void graphs() {
    const infiniop::Stream stream;
    std::vector<float> a(4, 1.0f), b(4, 2.0f), c(4), d(4);
    const auto both = [&] {
        infiniop::add({c.data(), {4}}, {a.data(), {4}}, {b.data(), {4}}, {stream, "counting"});
        infiniop::mul({d.data(), {4}}, {c.data(), {4}}, {c.data(), {4}}, {stream});
    };
    both();
    void *const kept = counting::last_workspace;
    infiniop::Capture capture(stream);
    const int calculated = counting::calculated;
    both();
    CHECK(counting::calculated == calculated);
    const infiniop::Graph graph = capture.end();
    a.assign(4, 5.0f);
    graph.launch(stream);
    CHECK(d[3] == 49 && counting::last_workspace != kept); // a graph owns its workspaces
    for (size_t n = 1; n <= 100; ++n) {
        add(n, stream); // pushes out what the capture used
    }
    a.assign(4, 6.0f);
    graph.launch();
    CHECK(d[0] == 64);
    CHECK(!capture.end(nothrow) && thrown_by([&] { capture.end(); }).argument() == "stream");
    {
        const infiniop::Capture dropped(stream);
    }
    both(); // the stream runs again

    infinirtGraph_t raw = nullptr;
    OK(infinirtStreamBeginCapture(stream.get(), INFINIRT_STREAM_CAPTURE_MODE_RELAXED));
    CHECK(thrown_by(both).argument() == "workspace"); // nobody could own it
    infiniop::mul({d.data(), {4}}, {c.data(), {4}}, {c.data(), {4}}, {stream});
    OK(infinirtStreamEndCapture(stream.get(), &raw));
    OK(infinirtGraphDestroy(raw));
}

void runtime() {
    CHECK(infiniop::current_device() == infiniop::Device() && infiniop::device_count(INFINI_DEVICE_CPU) == 1);
    CHECK(infiniop::device_type("cpu") == INFINI_DEVICE_CPU);
    infiniop::set_device({INFINI_DEVICE_CPU, 0});
    CHECK(thrown_by([] { infiniop::set_device({INFINI_DEVICE_CAMBRICON, 0}); }).status() != INFINI_STATUS_SUCCESS);
    const infiniop::Stream stream, other;
    const infiniop::Event start, end(INFINIRT_EVENT_DEFAULT);
    start.record(stream);
    other.wait(start);
    end.record(stream);
    end.synchronize();
    CHECK(end.query() && end.since(start) >= 0);
    stream.synchronize();
    infiniop::synchronize();
    const float host[] = {1, -2, 3};
    float back[3] = {};
    const infiniop::Memory<float> memory(3), copy(3), none;
    memory.upload(host);
    infiniop::relu({memory.data(), {3}}, {memory.data(), {3}}, {stream});
    infiniop::copy(copy.data(), memory.data(), memory.bytes(), INFINIRT_MEMCPY_D2D, stream);
    copy.download(back);
    CHECK(back[0] == 1 && back[1] == 0 && back[2] == 3 && none.bytes() == 0);
    CHECK(!infiniop::Memory<double>::create(nothrow, static_cast<size_t>(-1) / 4));
    bool found = false;
    for (const infiniopBackendInfo &backend : infiniop::backends()) {
        found |= std::string(backend.name) == "counting" && backend.nkernels == 1;
    }
    CHECK(found && infiniop::has_operator("cpu", "relu") && !infiniop::has_operator("counting", "relu"));
    CHECK(thrown_by([] { infiniop::load_backend("/nowhere.so"); }).status() != INFINI_STATUS_SUCCESS);
}

} // namespace

int main() {
    counting::enter();
    views();
    functions();
    errors();
    descriptors();
    kept_descriptors();
    many_threads();
    graphs();
    runtime();
    puts("ok");
}
