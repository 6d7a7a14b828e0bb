// linear_pack: a weight into the layout of packed.cuh. What makes a weight unfit (an infinity, an integer beyond four
// bits) is device data: then nothing is written, and linear refuses the buffer for want of a header.
#include "infiniop/schema/linear_pack.h"

#include "../checked_host.h"
#include "packing.h"

namespace infiniop::nvidia {
namespace {

using schema::linear_pack::A;
using schema::linear_pack::op;
using schema::linear_pack::T;

// What the kernels tell each other, in the workspace.
struct Findings {
    uint32_t unfit, wide;
};

struct PackParams {
    PackedWeight w;
    int64_t group_size; // as given
    uint32_t dtype;
    int64_t weight_row, scales_row, zeros_row;
    bool signed_zeros;
    const void *weight, *scales, *zeros; // (optional) scales, zeros
    char *packed;
    Findings *findings;
};

__global__ void begin_packing(Findings *findings) { *findings = {0, 0}; }

// What an element counts as: an integer as it is stored, a float as it is.
template <class W> __device__ __forceinline__ W element(const PackParams &p, int64_t row, int64_t column) {
    return static_cast<const W *>(p.weight)[row * p.weight_row + column];
}

__device__ __forceinline__ int stored_zero(const PackParams &p, int64_t row, int64_t group) {
    const int64_t i = row * p.zeros_row + group;
    return p.w.offset() + (p.signed_zeros ? int(static_cast<const int8_t *>(p.zeros)[i])
                                          : int(static_cast<const uint8_t *>(p.zeros)[i]));
}

template <class W> __global__ void check_elements(const PackParams p) {
    const bool int4 = p.w.format == 2;
    for (int64_t i = global_thread(); i < int64_t(p.w.n) * p.w.k; i += grid_threads()) {
        bool fits;
        if constexpr (sizeof(W) == 1) {
            const int q = int(element<W>(p, i / p.w.k, i % p.w.k)) + p.w.offset();
            fits = !int4 || (q >= 0 && q < 16);
        } else {
            const float x = to_float(element<W>(p, i / p.w.k, i % p.w.k));
            fits = x - x == 0.0f;
        }
        if (!fits) {
            atomicOr(&p.findings->unfit, 1u);
        }
    }
    if (p.zeros && p.w.k > 0) {
        for (int64_t i = global_thread(); i < int64_t(p.w.n) * p.w.groups(); i += grid_threads()) {
            const int zero = stored_zero(p, i / p.w.groups(), i % p.w.groups());
            const int most = int4 ? 15 : 255;
            if (zero > (int4 ? 128 : 256) || most - zero > 256) {
                atomicOr(&p.findings->wide, 1u);
            }
        }
    }
}

// The scale of a group of floats (operators/linear_pack.py): the warp's lanes share its columns.
template <class W> __device__ float group_scale(const PackParams &p, int64_t row, int64_t group) {
    float low = 0.0f, high = 0.0f;
    for (int64_t i = threadIdx.x % 32; i < p.w.group; i += 32) {
        const float x = to_float(element<W>(p, row, group * p.w.group + i));
        low = fminf(low, x);
        high = fmaxf(high, x);
    }
    low = -warp_reduce(-low, Max{});
    high = warp_reduce(high, Max{});
    return p.w.format == 1 ? fmaxf(-low, high) / 127.0f : (-low >= high ? low : high) / -8.0f;
}

// Header, scales and zeros. Threads: warps, each with groups of its own.
template <class W> __global__ void pack_scales(const PackParams p) {
    if (p.findings->unfit) {
        return;
    }
    const int64_t groups = p.w.groups(), warps = grid_threads() / 32;
    const int lane = threadIdx.x % 32;
    if (global_thread() == 0) {
        PackedHeader header = {};
        header.magic = packed_magic;
        header.version = packed_version;
        header.format = p.w.format;
        header.n = p.w.n;
        header.k = p.w.k;
        header.group_size = p.group_size;
        header.dtype = p.dtype;
        header.layout = p.w.layout();
        header.wide = p.findings->wide;
        *reinterpret_cast<PackedHeader *>(p.packed) = header;
    }
    if (p.w.format == 0) {
        return;
    }
    for (int64_t i = global_thread() / 32; i < int64_t(p.w.row_tiles()) * tile_rows * groups; i += warps) {
        const int64_t row = i / groups, group = i % groups;
        const bool inside = row < p.w.n && p.w.k > 0;
        char *to = p.packed + p.w.scales_at();
        float scale = 0.0f;
        if constexpr (sizeof(W) != 1) {
            scale = inside ? group_scale<W>(p, row, group) : 0.0f;
        }
        if (lane != 0) {
            continue;
        }
        if (!p.scales) {
            reinterpret_cast<bf16 *>(to)[i] = from_float<bf16>(scale);
        } else if (p.w.scale == Scale::f32) {
            reinterpret_cast<float *>(to)[i] =
                inside ? static_cast<const float *>(p.scales)[row * p.scales_row + group] : 0.0f;
        } else {
            reinterpret_cast<uint16_t *>(to)[i] =
                inside ? static_cast<const uint16_t *>(p.scales)[row * p.scales_row + group] : uint16_t(0);
        }
        if (p.zeros) {
            reinterpret_cast<int16_t *>(p.packed + p.w.zeros_at())[i] =
                int16_t(inside ? stored_zero(p, row, group) : 0);
        }
    }
}

// The integer that is stored for an element.
template <class W> __device__ __forceinline__ uint32_t quantised(const PackParams &p, int64_t row, int64_t column) {
    if (row >= p.w.n || column >= p.w.k) {
        return 0;
    }
    if constexpr (sizeof(W) == 1) {
        return uint32_t(int(element<W>(p, row, column)) + p.w.offset());
    } else {
        const int64_t at = row * p.w.groups() + column / p.w.group;
        const float scale = to_float(reinterpret_cast<const bf16 *>(p.packed + p.w.scales_at())[at]);
        const float low = p.w.format == 1 ? -127.0f : -8.0f, high = p.w.format == 1 ? 127.0f : 7.0f;
        const float steps = scale == 0.0f ? 0.0f : to_float(element<W>(p, row, column)) / scale;
        return uint32_t(int(rintf(fminf(fmaxf(steps, low), high))) + p.w.offset());
    }
}

// A thread makes one word of a tile.
template <class W> __global__ void pack_tiles(const PackParams p) {
    if (p.findings->unfit) {
        return;
    }
    const bool int4 = p.w.format == 2;
    const int64_t tiles = int64_t(p.w.row_tiles()) * p.w.column_tiles(), words = tiles * (tile_bytes / 4);
    for (int64_t i = global_thread(); i < words; i += grid_threads()) {
        const int64_t tile = i / 256, row_tile = tile / p.w.column_tiles(), column_tile = tile % p.w.column_tiles();
        const int word = int(i % 256), lane = word / 8, half = word / 4 % 2, at = word % 4;
        const int64_t row = row_tile * tile_rows + lane / 4 + 8 * half;
        const int64_t column = column_tile * p.w.tile_columns() + lane % 4 * 4;
        uint32_t value = 0;
        for (int j = 0; j < (int4 ? 8 : 4); j++) {
            const int step = int4 ? 2 * at + j / 4 : at;
            const int within = j % 4;
            const int bit = int4 ? 4 * (2 * (step % 2) + within / 2 + 4 * (within % 2)) : 8 * within;
            value |= quantised<W>(p, row, column + 16 * step + within) << bit;
        }
        reinterpret_cast<uint32_t *>(p.packed + sizeof(PackedHeader))[i] = value;
    }
}

template <class E> __global__ void pack_rows(const PackParams p) {
    const int64_t pitch = p.w.row_pitch();
    E *to = reinterpret_cast<E *>(p.packed + sizeof(PackedHeader));
    for (int64_t i = global_thread(); i < p.w.n * pitch; i += grid_threads()) {
        const int64_t row = i / pitch, column = i % pitch;
        to[i] = column < p.w.k ? static_cast<const E *>(p.weight)[row * p.weight_row + column] : E{};
    }
}

struct State {
    PackParams p = {};
    Limits limits;
    infiniDtype_t dtype;
    int64_t bytes;

    static Status create(const Call &call, State &s, size_t &workspace) {
        s.limits = nvidia::limits(call);
        s.dtype = call.dtype(T::weight);
        s.bytes = int64_t(call.dim(T::packed, 0));
        s.p.group_size = call.integer(A::group_size);
        s.p.dtype = uint32_t(s.dtype);
        s.p.weight_row = call.stride(T::weight, 0);
        s.p.scales_row = call.has(T::scales) ? call.stride(T::scales, 0) : 0;
        s.p.zeros_row = call.has(T::zeros) ? call.stride(T::zeros, 0) : 0;
        s.p.signed_zeros = call.has(T::zeros) && call.dtype(T::zeros) == INFINI_DTYPE_I8;
        workspace = sizeof(Findings);
        return describe<T, A>(call, s.p.w);
    }

    Status calculate(const Run &run) const {
        const int64_t needed = p.w.bytes(int(element_size(dtype)));
        if (bytes < needed) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "packed",
                        Text("%lld bytes, as linear_packed_size says", (long long)needed),
                        Text("%lld", (long long)bytes));
        }
        PackParams q = p;
        q.weight = run.data<void>(T::weight);
        q.scales = run.data<void>(T::scales);
        q.zeros = run.data<void>(T::zeros);
        q.packed = run.data<char>(T::packed);
        q.findings = run.workspace<Findings>();
        if (!aligned(q.packed)) {
            return fail(INFINI_STATUS_BAD_PARAM, op, "packed", "memory aligned to 16 bytes", "another");
        }
        const Status status = launch(begin_packing, 1, 1, 0, run.stream(), q.findings);
        if (status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        switch (dtype) {
        case INFINI_DTYPE_I8:
            return pack<int8_t>(q, run.stream());
        case INFINI_DTYPE_U8:
            return pack<uint8_t>(q, run.stream());
        default:
            return visit_float(dtype, [&](auto tag) { return pack<typename decltype(tag)::type>(q, run.stream()); });
        }
    }

    template <class W> Status pack(const PackParams &q, infinirtStream_t stream) const {
        const auto over = [&](int64_t items, auto function) {
            const Plan plan = plan_items(limits, items);
            return launch(function, plan.blocks, plan.threads, 0, stream, q);
        };
        const int64_t scales = 1 + (q.w.format ? int64_t(q.w.row_tiles()) * tile_rows * q.w.groups() : 0);
        Status status = q.w.format ? over(int64_t(q.w.n) * q.w.k, check_elements<W>) : INFINI_STATUS_SUCCESS;
        if (status == INFINI_STATUS_SUCCESS && checks_now(stream)) {
            std::vector<char> found;
            status = fetch(found, q.findings, sizeof(Findings), stream);
            if (status == INFINI_STATUS_SUCCESS && reinterpret_cast<const Findings *>(found.data())->unfit) {
                return fail(INFINI_STATUS_BAD_PARAM, op, "weight",
                            sizeof(W) == 1 ? "integers of 4 bits" : "finite elements, to be quantised", "others");
            }
        }
        if (status == INFINI_STATUS_SUCCESS) {
            status = over(32 * scales, pack_scales<W>);
        }
        if (status != INFINI_STATUS_SUCCESS) {
            return status;
        }
        return q.w.format ? over(int64_t(q.w.row_tiles()) * q.w.column_tiles() * (tile_bytes / 4), pack_tiles<W>)
                          : over(q.w.n * q.w.row_pitch(), pack_rows<W>);
    }
};

constexpr infiniopKernel kernel = make_kernel<State>(op, schema::linear_pack::version);
[[gnu::section("infiniop_kernels"), gnu::used]] const infiniopKernel *const registered = &kernel;

} // namespace
} // namespace infiniop::nvidia
