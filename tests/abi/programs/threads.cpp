// The registry, dispatch and the CPU's thread pool under load from many threads, discovery included.
#include <infiniop.h>
#include <infinirt.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr int nthreads = 6, rounds = 40;
std::atomic<int> registered{0};

void register_and_list(int t) {
    for (int i = 0; i < rounds; ++i) {
        // Names and tables live for the rest of the process.
        const auto *name = new std::string("extra-" + std::to_string(t) + "-" + std::to_string(i));
        const auto *table = new infiniopBackend{sizeof(infiniopBackend),
                                                INFINIOP_BACKEND_ABI_MAJOR,
                                                1,
                                                name->c_str(),
                                                i % 2 ? "cpu" : name->c_str(),
                                                "",
                                                0,
                                                0,
                                                nullptr,
                                                nullptr,
                                                0,
                                                nullptr};
        OK(infiniopRegisterBackend(table));
        ++registered;
        OK(infiniopReportBackendError(name->c_str(), "here", "once more"));
        infiniDevice_t device;
        OK(infiniopGetDeviceByName(table->device_name, &device));
        size_t count;
        OK(infiniopGetBackendCount(&count));
        infiniopBackendInfo info{};
        info.struct_size = sizeof info;
        OK(infiniopGetBackendInfo(count - 1, &info));
        CHECK(info.name[0] != '\0');
    }
}

void compute(int t) {
    infiniopHandle_t handle;
    OK(infiniopCreateHandle(&handle));
    for (int i = 0; i < rounds; ++i) {
        const size_t shape[] = {static_cast<size_t>(1 + t * 30000 + i)};
        std::vector<float> in(shape[0], -1.0f), out(shape[0], 7.0f);
        in.back() = 2.0f;
        infiniopTensorDescriptor_t tensor;
        infiniopReluDescriptor_t desc;
        OK(infiniopCreateTensorDescriptor(&tensor, 1, shape, nullptr, INFINI_DTYPE_F32));
        OK(infiniopCreateReluDescriptor(handle, &desc, tensor, tensor));
        OK(infiniopRelu(desc, nullptr, 0, out.data(), in.data(), nullptr));
        CHECK(out.back() == 2.0f && (shape[0] == 1 || out.front() == 0.0f));
        FAILS(NULL_POINTER, "relu: x", infiniopRelu(desc, nullptr, 0, out.data(), nullptr, nullptr));
        OK(infiniopDestroyReluDescriptor(desc));
        OK(infiniopDestroyTensorDescriptor(tensor));
    }
    OK(infiniopDestroyHandle(handle));
}

} // namespace

int main() {
    std::vector<std::thread> threads;
    for (int t = 0; t < nthreads; ++t) {
        threads.emplace_back(t % 3 == 0 ? register_and_list : compute, t);
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    CHECK(registered == nthreads / 3 * rounds);
    puts("ok");
}
