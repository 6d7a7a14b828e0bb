// Kernels with one defect each, which the emulator must name, and the same without it, about which it must keep still.
#include "planted.h"

#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "../../../backends/nvidia/kernels/mma.cuh"

using namespace infiniop::nvidia;

namespace {

struct Memory {
    int *out;        // two for each of 64 threads
    const uint4 *in; // so many, too
};

// Shared memory that is written and seen by all.
template <class T> T *shared_zeros() {
    T *const shared = shared_memory<T>();
    shared[threadIdx.x] = T{};
    __syncthreads();
    return shared;
}

// ---- barriers ---------------------------------------------------------------------------------------------

template <bool good> __global__ void block_barrier(Memory m) {
    int *const shared = shared_zeros<int>();
    shared[threadIdx.x] = 1;
    if (good) {
        __syncthreads();
    }
    m.out[threadIdx.x] = shared[63 - threadIdx.x];
}

template <bool good> __global__ void warp_barrier(Memory m) {
    int *const shared = shared_zeros<int>();
    shared[threadIdx.x] = 1;
    if (good) {
        __syncwarp();
    }
    m.out[threadIdx.x] = shared[threadIdx.x ^ 1];
}

template <bool good> __global__ void warp_barrier_for_a_block(Memory m) {
    int *const shared = shared_zeros<int>();
    shared[threadIdx.x] = 1;
    __syncwarp();
    m.out[threadIdx.x] = shared[threadIdx.x ^ (good ? 1 : 32)];
}

template <bool good> __global__ void part_of_a_warp(Memory m) {
    int *const shared = shared_zeros<int>();
    const int lane = threadIdx.x % 32;
    shared[threadIdx.x] = 1;
    __syncwarp(lane < 16 ? 0xffffu : 0xffff0000u);
    m.out[threadIdx.x] = shared[threadIdx.x ^ (good ? 8 : 16)];
}

template <bool good> __global__ void shuffle_is_no_barrier(Memory m) {
    int *const shared = shared_zeros<int>();
    shared[threadIdx.x] = 1;
    const int one = __shfl_xor_sync(all_lanes, 1, 1);
    if (good) {
        __syncwarp();
    }
    m.out[threadIdx.x] = shared[threadIdx.x ^ one];
}

template <bool good> __global__ void written_while_others_read(Memory m) {
    int *const shared = shared_zeros<int>();
    for (int round = 0; round < 2; round++) {
        shared[threadIdx.x] = round;
        __syncthreads();
        m.out[threadIdx.x] += shared[63 - threadIdx.x];
        if (good) {
            __syncthreads();
        }
    }
}

template <bool good> __global__ void same_value(Memory m) {
    __shared__ int flag;
    if (good ? threadIdx.x == 0 : m.in[threadIdx.x].x < 100) {
        flag = 1;
    }
    __syncthreads();
    m.out[threadIdx.x] = flag;
}

// ---- blocks, atomics --------------------------------------------------------------------------------------

template <bool good> __global__ void blocks_write(Memory m) {
    if (threadIdx.x == 0) {
        m.out[good ? blockIdx.x : 0] = 1;
    }
}

template <bool good> __global__ void blocks_read_and_write(Memory m) {
    if (threadIdx.x == 0) {
        m.out[2 + blockIdx.x] = m.out[good ? 0 : 3 - blockIdx.x];
    }
}

template <bool good> __global__ void plain_beside_atomic(Memory m) {
    int *const shared = shared_memory<int>();
    if (threadIdx.x == 0) {
        *shared = 0;
    }
    __syncthreads();
    atomicAdd(shared, 1);
    if (good) {
        __syncthreads();
    }
    m.out[threadIdx.x] = *shared;
}

// ---- asynchronous copies ----------------------------------------------------------------------------------

template <bool good> __global__ void copy_without_wait(Memory m) {
    uint4 *const shared = shared_memory<uint4>();
    copy_async_16(shared + threadIdx.x, m.in + threadIdx.x, true);
    copy_async_commit();
    if (good) {
        copy_async_wait<0>();
    }
    m.out[threadIdx.x] = int(shared[threadIdx.x].x);
}

template <bool good> __global__ void copy_without_commit(Memory m) {
    uint4 *const shared = shared_memory<uint4>();
    copy_async_16(shared + threadIdx.x, m.in + threadIdx.x, true);
    if (good) {
        copy_async_commit();
    }
    copy_async_wait<0>();
    m.out[threadIdx.x] = int(shared[threadIdx.x].x);
}

template <bool good> __global__ void wait_for_too_few(Memory m) {
    uint4 *const shared = shared_memory<uint4>();
    for (int i = 0; i < 2; i++) {
        copy_async_16(shared + 64 * i + threadIdx.x, m.in + 64 * i + threadIdx.x, i == 0);
        copy_async_commit();
    }
    copy_async_wait<good ? 0 : 1>();
    m.out[threadIdx.x] = int(shared[64 + threadIdx.x].x);
}

template <bool good> __global__ void copy_without_barrier(Memory m) {
    uint4 *const shared = shared_zeros<uint4>();
    copy_async_16(shared + threadIdx.x, m.in + threadIdx.x, true);
    copy_async_commit();
    copy_async_wait<0>();
    if (good) {
        __syncthreads();
    }
    m.out[threadIdx.x] = int(shared[63 - threadIdx.x].x);
}

template <bool good> __global__ void copied_over_while_others_read(Memory m) {
    uint4 *const shared = shared_zeros<uint4>();
    for (int round = 0; round < 2; round++) {
        copy_async_16(shared + threadIdx.x, m.in + threadIdx.x, true);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        m.out[threadIdx.x] += int(shared[63 - threadIdx.x].x);
        if (good) {
            __syncthreads();
        }
    }
}

template <bool good> __global__ void written_under_a_copy(Memory m) {
    uint4 *const shared = shared_memory<uint4>();
    copy_async_16(shared + threadIdx.x, m.in + threadIdx.x, true);
    copy_async_commit();
    if (good) {
        copy_async_wait<0>();
    }
    shared[threadIdx.x].x = 1;
}

// ---- what was never written, addresses --------------------------------------------------------------------

// The second block finds the first one's numbers here.
template <bool good> __global__ void unwritten_statics(Memory m) {
    __shared__ int shared[64];
    if (good || blockIdx.x == 0) {
        shared[threadIdx.x] = 1;
    }
    m.out[64 * blockIdx.x + threadIdx.x] = good || blockIdx.x == 1 ? shared[threadIdx.x] : 0;
}

template <bool good> __global__ void unwritten(Memory m) {
    uint16_t *const shared = shared_memory<uint16_t>();
    shared[2 * threadIdx.x] = 1;
    if (good) {
        shared[2 * threadIdx.x + 1] = 1;
    }
    m.out[threadIdx.x] = reinterpret_cast<int *>(shared)[threadIdx.x];
}

template <bool good> __global__ void misaligned(Memory m) {
    const char *at = reinterpret_cast<const char *>(m.in + threadIdx.x) + (good ? 8 : 4);
    m.out[threadIdx.x] = int(*reinterpret_cast<const uint64_t *>(at));
}

template <bool good> __global__ void misaligned_copy(Memory m) {
    char *const shared = shared_memory<char>() + 16 * threadIdx.x;
    copy_async_16(shared, reinterpret_cast<const char *>(m.in + threadIdx.x) + (good ? 16 : 8), true);
}

// ---- all of them ------------------------------------------------------------------------------------------

struct Planted {
    const char *name;
    unsigned blocks;
    const char *report;
    void (*good)(Memory), (*bad)(Memory);
};

#define PLANTED(kernel, blocks, report) {#kernel, blocks, report, kernel<true>, kernel<false>}
const Planted all[] = {
    PLANTED(block_barrier, 1, "race of a"),
    PLANTED(warp_barrier, 1, "race of a"),
    PLANTED(warp_barrier_for_a_block, 1, "race of a"),
    PLANTED(part_of_a_warp, 1, "race of a"),
    PLANTED(shuffle_is_no_barrier, 1, "race of a"),
    PLANTED(written_while_others_read, 1, "race of a"),
    PLANTED(same_value, 1, "race of two writes"),
    PLANTED(blocks_write, 2, "race of two writes"),
    PLANTED(blocks_read_and_write, 2, "race of a"),
    PLANTED(plain_beside_atomic, 1, "race"),
    PLANTED(copy_without_wait, 1, "read before its asynchronous copy was waited for"),
    PLANTED(copy_without_commit, 1, "read before its asynchronous copy was waited for"),
    PLANTED(wait_for_too_few, 1, "read before its asynchronous copy was waited for"),
    PLANTED(copy_without_barrier, 1, "race of a"),
    PLANTED(copied_over_while_others_read, 1, "race of a"),
    PLANTED(written_under_a_copy, 1, "written while an asynchronous copy is on its way"),
    PLANTED(unwritten_statics, 2, "read of shared memory that the block has not written"),
    PLANTED(unwritten, 1, "read of shared memory that the block has not written"),
    PLANTED(misaligned, 1, "misaligned access"),
    PLANTED(misaligned_copy, 1, "misaligned access"),
};

// What `call` prints to stderr.
template <class F> std::string printed(F &&call) {
    FILE *const file = tmpfile();
    fflush(stderr);
    const int before = dup(2);
    dup2(fileno(file), 2);
    call();
    fflush(stderr);
    dup2(before, 2);
    close(before);
    std::string text(size_t(ftell(file)), '\0');
    rewind(file);
    text.resize(fread(text.data(), 1, text.size(), file));
    fclose(file);
    return text;
}

std::string run(void (*kernel)(Memory), unsigned blocks, cudaError_t &status) {
    std::vector<int> out(128);
    const std::vector<uint4> in(128, uint4{1, 2, 3, 4});
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks;
    config.blockDim = 64;
    config.dynamicSmemBytes = 2 * 64 * sizeof(uint4);
    return printed([&] { status = cudaLaunchKernelEx(&config, kernel, Memory{out.data(), in.data()}); });
}

} // namespace

bool planted_defects_are_named() {
    bool kept = true;
    for (const Planted &planted : all) {
        cudaError_t good, bad;
        const std::string nothing = run(planted.good, planted.blocks, good),
                          report = run(planted.bad, planted.blocks, bad);
        if (good != cudaSuccess || !nothing.empty()) {
            fprintf(stderr, "%s: false alarm: %s\n", planted.name, nothing.c_str());
            kept = false;
        }
        if (bad != cudaErrorLaunchFailure || report.find(planted.report) == std::string::npos ||
            report.find("planted.cc:") == std::string::npos) {
            fprintf(stderr, "%s: not named: %s\n", planted.name, report.c_str());
            kept = false;
        }
    }
    return kept;
}
