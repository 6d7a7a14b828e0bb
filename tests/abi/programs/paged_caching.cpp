// paged_caching end to end on the CPU from C++: half precision, strided sources, shared by threads.
#include <infiniop.h>
#include <infinirt.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

using Tensor = std::unique_ptr<InfiniopTensorDescriptor, infiniStatus_t (*)(infiniopTensorDescriptor_t)>;
using Operator = std::unique_ptr<InfiniopDescriptor, infiniStatus_t (*)(infiniopPagedCachingDescriptor_t)>;
using Handle = std::unique_ptr<InfiniopHandle, infiniStatus_t (*)(infiniopHandle_t)>;

Tensor tensor(infiniDtype_t dtype, const std::vector<size_t> &shape, const ptrdiff_t *strides = nullptr) {
    infiniopTensorDescriptor_t desc = nullptr;
    OK(infiniopCreateTensorDescriptor(&desc, shape.size(), shape.data(), strides, dtype));
    return {desc, infiniopDestroyTensorDescriptor};
}

constexpr size_t nblocks = 3, nkvh = 2, block_size = 4, dh = 8, ntok = 5, gap = 3;
constexpr ptrdiff_t row = dh + gap;

Operator create(infiniopHandle_t handle) {
    const ptrdiff_t strides[] = {nkvh * row, row, 1};
    const Tensor cache = tensor(INFINI_DTYPE_BF16, {nblocks, nkvh, block_size, dh});
    const Tensor source = tensor(INFINI_DTYPE_BF16, {ntok, nkvh, dh}, strides);
    const Tensor slots = tensor(INFINI_DTYPE_I64, {ntok});
    infiniopPagedCachingDescriptor_t desc = nullptr;
    OK(infiniopCreatePagedCachingDescriptor(handle, &desc, cache.get(), cache.get(), source.get(), source.get(),
                                            slots.get()));
    return {desc, infiniopDestroyPagedCachingDescriptor};
}

void run(infiniopPagedCachingDescriptor_t desc, uint16_t seed) {
    std::vector<uint16_t> k_cache(nblocks * nkvh * block_size * dh), v_cache(k_cache), k(ntok * nkvh * row), v(k);
    const std::vector<int64_t> slots{9, -5, 0, 3, 11};
    for (size_t i = 0; i < k.size(); ++i) {
        k[i] = static_cast<uint16_t>(seed + i);
        v[i] = static_cast<uint16_t>(seed + 1000 + i);
    }
    OK(infiniopPagedCaching(desc, nullptr, 0, k_cache.data(), v_cache.data(), k.data(), v.data(), slots.data(),
                            nullptr));
    size_t written = 0;
    for (size_t n = 0; n < ntok; ++n) {
        for (size_t i = 0; slots[n] >= 0 && i < nkvh * dh; ++i) {
            const size_t slot = static_cast<size_t>(slots[n]), h = i / dh, j = i % dh;
            const size_t to = ((slot / block_size * nkvh + h) * block_size + slot % block_size) * dh + j;
            const size_t from = (n * nkvh + h) * static_cast<size_t>(row) + j;
            CHECK(k_cache[to] == k[from] && v_cache[to] == v[from]);
            ++written;
        }
    }
    size_t nonzero = 0;
    for (const uint16_t value : v_cache) {
        nonzero += value != 0;
    }
    CHECK(nonzero == written); // and nothing else was
}

} // namespace

int main() {
    infiniopHandle_t raw = nullptr;
    OK(infiniopCreateHandle(&raw));
    Handle handle(raw, infiniopDestroyHandle);
    const Operator desc = create(handle.get());
    handle.reset(); // the descriptor does not need it
    size_t size = 1;
    OK(infiniopGetPagedCachingWorkspaceSize(desc.get(), &size));
    CHECK(size == 0);
    const char *backend = nullptr;
    OK(infiniopGetDescriptorBackend(desc.get(), &backend));
    CHECK(std::string(backend) == "cpu");
    std::vector<std::thread> threads;
    for (uint16_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < 50; ++i) {
                run(desc.get(), static_cast<uint16_t>(1 + t * 100));
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    puts("ok");
}
