// What a native call costs beyond its kernel: one line per way of calling, its name and nanoseconds. The kernel is an
// empty one of three tensors. `infiniop bench overhead` compiles and runs this where a C++ compiler is found.
#include <infiniop.hpp>
#include <infiniop/schema/add.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace {

constexpr int calls = 1024000, rounds = 9, nodes = 256;

infiniStatus_t create(void *, const infiniopCall *, void **state, size_t *workspace) {
    *state = nullptr;
    *workspace = 0;
    return INFINI_STATUS_SUCCESS;
}

infiniStatus_t calculate(void *, const infiniopRun *run) {
    return run->data[0] ? INFINI_STATUS_SUCCESS : INFINI_STATUS_INTERNAL_ERROR;
}

// The first choice for add on the CPU.
void register_empty_kernel() {
    namespace schema = infiniop::schema::add;
    static const infiniopKernel add{sizeof add, schema::op, schema::version, nullptr,
                                    create,     calculate,  nullptr,         nullptr};
    static const infiniopKernel *const kernels[] = {&add};
    static const infiniopBackend backend{sizeof backend,
                                         INFINIOP_BACKEND_ABI_MAJOR,
                                         INFINIOP_BACKEND_ABI_MINOR,
                                         "empty",
                                         "cpu",
                                         "1",
                                         1000000,
                                         0,
                                         nullptr,
                                         nullptr,
                                         1,
                                         kernels};
    if (infiniopRegisterBackend(&backend)) {
        std::fprintf(stderr, "%s\n", infiniopGetLastError());
        std::exit(1);
    }
}

void check(infiniStatus_t status) {
    if (status) {
        std::fprintf(stderr, "%s\n", infiniopGetLastError());
        std::exit(1);
    }
}

struct Way {
    const char *name;
    std::array<double, rounds> nanoseconds{};
};

// One round of one way, of which each call makes `at_once` calls of the kernel.
template <class Call> void measure(Way &way, int round, const Call &call, int at_once = 1) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls / at_once; ++i) {
        call();
    }
    const std::chrono::duration<double, std::nano> passed = std::chrono::steady_clock::now() - start;
    way.nanoseconds[static_cast<size_t>(round)] = passed.count() / calls;
}

} // namespace

int main() {
    register_empty_kernel();
    float a = 1, b = 2, c = 0;
    void *data[] = {&c, &a, &b};
    const infiniopRun run{sizeof run, nullptr, 0, data, nullptr, nullptr};
    infiniStatus_t (*volatile kernel)(void *, const infiniopRun *) = calculate;
    const infiniop::Tensor tc(&c, {1, 1, 1});
    const infiniop::ConstTensor ta(&a, {1, 1, 1}), tb(&b, {1, 1, 1});
    infiniop::Add add(infiniop::Handle(), tc, ta, tb);
    infiniopAddDescriptor_t desc = add.get();

    const infiniop::Stream stream;
    infiniop::Capture capture(stream);
    for (int i = 0; i < nodes; ++i) {
        check(infiniopAdd(desc, nullptr, 0, &c, &a, &b, stream.get()));
    }
    const infiniop::Graph graph = capture.end();

    Way ways[] = {{"empty kernel called directly"},        {"C: infiniopAdd"},
                  {"C: infiniopAdd in a replay"},          {"C++: Add::run, descriptor held"},
                  {"C++: infiniop::add, views held"},      {"C++: infiniop::add, views made"},
                  {"C++: infiniop::add, errors as values"}};
    for (int round = 0; round < rounds; ++round) {
        measure(ways[0], round, [&] { check(kernel(nullptr, &run)); });
        measure(ways[1], round, [&] { check(infiniopAdd(desc, nullptr, 0, &c, &a, &b, nullptr)); });
        measure(ways[2], round, [&] { check(infinirtGraphLaunch(graph.get(), stream.get())); }, nodes);
        measure(ways[3], round, [&] { add.run({}, &c, &a, &b); });
        measure(ways[4], round, [&] { infiniop::add(tc, ta, tb); });
        measure(ways[5], round, [&] { infiniop::add({&c, {1, 1, 1}}, {&a, {1, 1, 1}}, {&b, {1, 1, 1}}); });
        measure(ways[6], round, [&] {
            if (!infiniop::add(infiniop::nothrow, tc, ta, tb)) {
                std::abort();
            }
        });
    }
    for (Way &way : ways) {
        std::sort(way.nanoseconds.begin(), way.nanoseconds.end());
        std::printf("%s\t%.2f\n", way.name, way.nanoseconds[rounds / 2]);
    }
}
