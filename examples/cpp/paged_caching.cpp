// Writes three tokens into a paged KV cache: with one call, with a descriptor that is held, with errors as exceptions
// and as values. With the prefix of the installed package:
//
//     export PKG_CONFIG_PATH=$(infiniop root)/lib/pkgconfig
//     g++ -std=c++17 paged_caching.cpp $(pkg-config --cflags --libs infiniop) -o paged_caching && ./paged_caching
//
// It prints:
//
//     block 0:   7.0   8.0   0.0   0.0
//     block 1:   0.0   0.0   0.0   0.0
//     block 2:   0.0   0.0   3.0   4.0
//     slot_mapping: expected values below 6, got 6 at [0]
//     paged_caching: slot_mapping: expected [ntok=3], got [2]
#include <infiniop.hpp>

#include <cstdio>
#include <vector>

int main() {
    constexpr size_t nblocks = 3, nkvh = 1, block_size = 2, dh = 2, ntok = 3;
    std::vector<float> k_memory(nblocks * nkvh * block_size * dh), v_memory(k_memory);
    const std::vector<float> k_rows{3, 4, 5, 6, 7, 8}, v_rows(k_rows);
    std::vector<int64_t> slots{5, -1, 0}; // slot = block * block_size + row; a negative one is padding

    // Views: a pointer, whose type gives the element type, and extents; strides where they are not row-major.
    const infiniop::Tensor k_cache(k_memory.data(), {nblocks, nkvh, block_size, dh});
    const infiniop::Tensor v_cache(v_memory.data(), {nblocks, nkvh, block_size, dh});
    const infiniop::ConstTensor k(k_rows.data(), {ntok, nkvh, dh}), v(v_rows.data(), {ntok, nkvh, dh});
    const infiniop::ConstTensor slot_mapping(slots.data(), {ntok});

    // One call. The descriptor is made once per signature and kept.
    infiniop::paged_caching(k_cache, v_cache, k, v, slot_mapping);
    for (size_t block = 0; block < nblocks; ++block) {
        std::printf("block %zu:", block);
        for (size_t i = 0; i < block_size * dh; ++i) {
            std::printf(" %5.1f", static_cast<double>(k_memory[block * block_size * dh + i]));
        }
        std::printf("\n");
    }

    // The same with a descriptor of one's own, which destroys itself. Failures throw.
    slots[0] = nblocks * block_size;
    try {
        infiniop::PagedCaching op(infiniop::Handle(), k_cache, v_cache, k, v, slot_mapping);
        op(k_cache.data(), v_cache.data(), k.data(), v.data(), slot_mapping.data());
    } catch (const infiniop::Error &error) {
        std::printf("%s: expected %s, got %s\n", error.argument().c_str(), error.expected().c_str(),
                    error.got().c_str());
    }

    // Failures as values: std::expected where there is one.
    const auto result = infiniop::paged_caching(infiniop::nothrow, k_cache, v_cache, k, v, {slots.data(), {2}});
    if (!result) {
        std::printf("%s\n", result.error().what());
    }
}
