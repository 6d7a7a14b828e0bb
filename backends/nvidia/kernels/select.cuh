// Selecting from a row without sorting it: by digits, most significant first, a histogram each. A block has a row.
//
// Elements are ordered by keys: unsigned numbers that grow with the value; -0 is 0, NaN is the largest. Amounts
// (counts, probabilities) are 64-bit integers: sums do not depend on the order in which threads add.
#pragma once

#include "../device.cuh"

namespace infiniop::nvidia {

using Amount = unsigned long long;

// ---- keys -----------------------------------------------------------------------------------------------------

template <class T> struct Bits;
template <> struct Bits<f16> {
    using type = uint16_t;
    static constexpr uint16_t infinity = 0x7c00;
};
template <> struct Bits<bf16> {
    using type = uint16_t;
    static constexpr uint16_t infinity = 0x7f80;
};
template <> struct Bits<float> {
    using type = uint32_t;
    static constexpr uint32_t infinity = 0x7f800000;
};
template <> struct Bits<double> {
    using type = uint64_t;
    static constexpr uint64_t infinity = 0x7ff0000000000000;
};

template <class T> constexpr int key_bits = 8 * int(sizeof(T));

template <class T> __device__ __forceinline__ uint64_t key_of(T value) {
    using B = typename Bits<T>::type;
    constexpr B sign = B(B(1) << (key_bits<T> - 1));
    B bits;
    memcpy(&bits, &value, sizeof(bits));
    const B magnitude = B(bits & ~sign);
    if (magnitude > Bits<T>::infinity) {
        return B(~B(0));
    }
    return magnitude == 0 ? sign : B(bits & sign ? ~bits : bits | sign);
}

template <class T> __device__ __forceinline__ T value_of(uint64_t key) {
    using B = typename Bits<T>::type;
    constexpr B sign = B(B(1) << (key_bits<T> - 1));
    const B bits = B(B(key) & sign ? B(key) & ~sign : ~B(key));
    T value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

// ---- a row ----------------------------------------------------------------------------------------------------

constexpr int digit_bits = 11, bins = 1 << digit_bits;

// What a block shares; one per kernel.
struct Scratch {
    Amount amounts[bins];
    Amount warps[warp_size];
    Amount before;
    int64_t found;
};

template <class T> struct Row {
    using Element = T;
    const T *x;
    int64_t n, step;

    // f(i, element) for every element, each by one thread of the block; 16 bytes at a time where they lie together.
    template <class F> __device__ __forceinline__ void for_each(F &&f) const {
        if (step != 1) {
            for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
                f(i, x[i * step]);
            }
            return;
        }
        constexpr int lanes = lanes_of<T>;
        const int64_t off = int64_t(reinterpret_cast<uintptr_t>(x) % access_bytes / sizeof(T));
        const int64_t head = min(n, off ? lanes - off : int64_t(0)), packs = (n - head) / lanes;
        const int64_t tail = head + packs * lanes;
        for (int64_t i = threadIdx.x; i < head; i += blockDim.x) {
            f(i, x[i]);
        }
        for (int64_t p = threadIdx.x; p < packs; p += blockDim.x) {
            const Pack<T, lanes> pack = load_pack<lanes>(x + head + p * lanes);
#pragma unroll
            for (int k = 0; k < lanes; k++) {
                f(head + p * lanes + k, pack.v[k]);
            }
        }
        for (int64_t i = tail + threadIdx.x; i < n; i += blockDim.x) {
            f(i, x[i]);
        }
    }
};

// An element of each thread, as if they were a row.
template <class T> struct Own {
    using Element = T;
    T element;
    template <class F> __device__ __forceinline__ void for_each(F &&f) const { f(int64_t(threadIdx.x), element); }
};

// ---- amounts over the block ------------------------------------------------------------------------------------

// To shared memory. 64 bits are added there by a loop of compare-and-swap, which takes long where many threads meet;
// each half is one instruction, and whoever makes the lower one overflow carries.
__device__ __forceinline__ void add_shared(Amount &sum, Amount amount) {
    unsigned *halves = reinterpret_cast<unsigned *>(&sum);
    const unsigned low = unsigned(amount), before = atomicAdd(&halves[0], low);
    const unsigned high = unsigned(amount >> 32) + unsigned(before + low < before);
    if (high) {
        atomicAdd(&halves[1], high);
    }
}

__device__ __forceinline__ Amount warp_inclusive_scan(Amount value) {
    const int lane = threadIdx.x % warp_size;
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
        const Amount below = __shfl_up_sync(all_lanes, value, step);
        value += lane >= step ? below : 0;
    }
    return value;
}

// The sum over the threads before this one. The block must meet at a barrier before it scans again.
__device__ __forceinline__ Amount block_exclusive_scan(Amount value, Scratch &scratch) {
    const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size, warps = blockDim.x / warp_size;
    const Amount inclusive = warp_inclusive_scan(value);
    if (lane == warp_size - 1) {
        scratch.warps[warp] = inclusive;
    }
    __syncthreads();
    if (warp == 0) {
        const Amount sum = lane < warps ? scratch.warps[lane] : 0;
        const Amount up_to = warp_inclusive_scan(sum);
        if (lane < warps) {
            scratch.warps[lane] = up_to - sum;
        }
    }
    __syncthreads();
    return scratch.warps[warp] + inclusive - value;
}

// Among scratch.amounts[at(0)], [at(1)] …, the first at which the running sum, begun with `before`, reaches `target`.
// Returns its number and, in `before`, the sum up to it. Every thread gets both; the sum of all must reach the target.
template <class At> __device__ __forceinline__ int find_bin(Scratch &scratch, Amount target, Amount &before, At &&at) {
    const int per_thread = bins / int(blockDim.x) > 0 ? bins / int(blockDim.x) : 1;
    const int first = int(threadIdx.x) * per_thread, last = min(first + per_thread, bins);
    Amount mine = 0;
    for (int i = first; i < last; i++) {
        mine += scratch.amounts[at(i)];
    }
    Amount sum = before + block_exclusive_scan(mine, scratch);
    if (sum < target && sum + mine >= target) {
        int i = first;
        while (sum + scratch.amounts[at(i)] < target) {
            sum += scratch.amounts[at(i)];
            i++;
        }
        scratch.found = i;
        scratch.before = sum;
    }
    __syncthreads();
    before = scratch.before;
    const int bin = int(scratch.found);
    __syncthreads();
    return bin;
}

// In descending order of keys, where the sum of amount(i, element) reaches `target` (1 … the sum of all): the key, and
// in `before` the sum over all larger keys.
template <class R, class F>
__device__ uint64_t select_key(const R &row, Scratch &scratch, Amount target, Amount &before, F &&amount) {
    using T = typename R::Element;
    uint64_t prefix = 0; // the digits found so far
    int shift = key_bits<T>;
    before = 0;
    while (shift > 0) {
        const int width = min(digit_bits, shift), above = shift;
        shift -= width;
        for (int i = threadIdx.x; i < bins; i += blockDim.x) {
            scratch.amounts[i] = 0;
        }
        __syncthreads();
        row.for_each([&](int64_t i, T element) {
            const uint64_t key = key_of(element);
            if (above == key_bits<T> || key >> above == prefix) {
                const Amount a = amount(i, element, key);
                if (a) {
                    add_shared(scratch.amounts[key >> shift & ((1u << width) - 1)], a);
                }
            }
        });
        __syncthreads();
        const int bin = bins - 1 - find_bin(scratch, target, before, [](int i) { return bins - 1 - i; });
        prefix = prefix << width | uint64_t(bin);
    }
    return prefix;
}

// In the row's own order, the first index at which the sum of amount(i) reaches `target` (1 … the sum of all).
template <class F> __device__ int64_t select_index(int64_t n, Scratch &scratch, Amount target, F &&amount) {
    const int lane = threadIdx.x % warp_size, warp = threadIdx.x / warp_size, warps = blockDim.x / warp_size;
    const int64_t segment = (n + bins * warp_size - 1) / (bins * warp_size) * warp_size; // whole warps of elements
    const int segments = int((n + segment - 1) / segment);
    for (int s = segments + int(threadIdx.x); s < bins; s += blockDim.x) {
        scratch.amounts[s] = 0;
    }
    for (int s = warp; s < segments; s += warps) {
        Amount sum = 0;
        for (int64_t i = s * segment + lane; i < min(n, (s + 1) * segment); i += warp_size) {
            sum += amount(i);
        }
        sum = warp_reduce(sum, Add{});
        if (lane == 0) {
            scratch.amounts[s] = sum;
        }
    }
    __syncthreads();
    Amount before = 0;
    const int s = find_bin(scratch, target, before, [](int i) { return i; });
    if (warp == 0) {
        for (int64_t start = s * segment; start < (s + 1) * segment; start += warp_size) {
            const int64_t i = start + lane;
            const Amount up_to = before + warp_inclusive_scan(i < n ? amount(i) : 0);
            const unsigned reached = __ballot_sync(all_lanes, up_to >= target);
            if (reached) {
                if (lane == 0) {
                    scratch.found = start + __ffs(int(reached)) - 1;
                }
                break;
            }
            before = __shfl_sync(all_lanes, up_to, warp_size - 1);
        }
    }
    __syncthreads();
    return scratch.found; // the next search writes it behind a barrier
}

// The sum of amount(i, element, key) over the row.
template <class T, class F> __device__ Amount sum_amounts(const Row<T> &row, F &&amount) {
    Amount sum = 0;
    row.for_each([&](int64_t i, T element) { sum += amount(i, element, key_of(element)); });
    return block_reduce(sum, Add{}, Amount(0));
}

// The largest key of the elements that for_each gives this thread; if none, that of minus infinity.
template <class T> __device__ Amount own_maximum(const Row<T> &row) {
    using B = typename Bits<T>::type;
    Amount key = B(~B(Bits<T>::infinity | B(1) << (key_bits<T> - 1)));
    row.for_each([&](int64_t, T element) { key = Max{}(key, Amount(key_of(element))); });
    return key;
}

// The largest key, and the lowest index that has it.
template <class T> __device__ int64_t arg_max(const Row<T> &row, Amount own, uint64_t &largest) {
    largest = block_reduce(own, Max{}, Amount(0));
    Amount inverse = 0; // of the index: the maximum is the lowest
    if (own == largest) {
        row.for_each([&](int64_t i, T element) {
            if (key_of(element) == largest) {
                inverse = Max{}(inverse, ~Amount(i));
            }
        });
    }
    return int64_t(~block_reduce(inverse, Max{}, Amount(0)));
}

// A key that at least `count` elements reach, as so many threads' maxima do; mostly few more. Who selects among these
// has next to nothing to add up.
template <class T> __device__ uint64_t reached_by(int64_t count, Scratch &scratch, Amount own) {
    if (count > int64_t(blockDim.x)) {
        return 0;
    }
    Amount before;
    return select_key(Own<T>{value_of<T>(own)}, scratch, Amount(count), before,
                      [](int64_t, T, uint64_t) { return Amount(1); });
}

// ---- probabilities --------------------------------------------------------------------------------------------

// exp((l - max) / temperature) as an amount: fixed point, so that the sum of a whole row fits.
template <class T> struct Weigher {
    using C = compute_t<T>;
    C largest, temperature, scale;

    __device__ __forceinline__ Weigher(C largest_, C temperature_, int64_t n)
        : largest(largest_), temperature(temperature_) {
        int bits = 0; // of n
        while (n >> bits) {
            bits++;
        }
        scale = C(Amount(1) << min(40, 62 - bits));
    }
    __device__ __forceinline__ C weight(T element) const { return exp((widen(element) - largest) / temperature); }
    __device__ __forceinline__ Amount amount(T element) const { return Amount(weight(element) * scale); }
};

// The least amount that is at least `share` of `all`, and within 1 … all.
__device__ __forceinline__ Amount share_of(double share, Amount all) {
    const double exact = ceil(share * double(all));
    const Amount least = exact >= double(all) ? all : Amount(exact);
    return least < 1 ? 1 : least;
}

} // namespace infiniop::nvidia
