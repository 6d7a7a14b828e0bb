// The emulator's own promises, and the backend's launch plans for arbitrary sizes and limits. Run by
// tests/nvidia/test_emulator_itself.py; ends with 1 at the first broken promise.
#include "../../../backends/nvidia/kernels/rows.cuh"

#include <cstdlib>
#include <random>
#include <vector>

#include "planted.h"

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (false)

using namespace infiniop::nvidia;

namespace {

template <class... P, class... A>
cudaError_t run(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream, A... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, P(arguments)...);
}

// ---- kernels --------------------------------------------------------------------------------------------------

// Each thread reads what its neighbour wrote.
__global__ void turn_round(int *out) {
    int *shared = shared_memory<int>();
    shared[threadIdx.x] = int(threadIdx.x);
    __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void votes(unsigned *out) {
    const int lane = int(threadIdx.x % 32);
    unsigned sum = 0;
    sum += __ballot_sync(all_lanes, lane % 2) == 0xaaaaaaaau;
    sum += __shfl_xor_sync(all_lanes, lane, 5) == (lane ^ 5);
    sum += __shfl_up_sync(all_lanes, lane, 1u) == (lane ? lane - 1 : 0);
    sum += __shfl_down_sync(all_lanes, lane, 4u, 8) == (lane % 8 < 4 ? lane + 4 : lane);
    sum += __shfl_sync(all_lanes, lane, 3, 16) == lane / 16 * 16 + 3;
    sum += __reduce_add_sync(all_lanes, 1u) == 32;
    sum += __match_any_sync(all_lanes, lane / 8) == 0xffu << (lane / 8 * 8);
    sum += __syncthreads_count(lane < 8) == int(blockDim.x) / 4;
    sum += block_reduce(int(threadIdx.x), Max{}, -1) == int(blockDim.x) - 1;
    if (lane < 16) { // part of a warp
        sum += __any_sync(0xffffu, lane == 3) && !__all_sync(0xffffu, lane == 3);
    } else {
        sum += 1;
    }
    atomicAdd(out, sum);
}

__global__ void diverge() {
    if (threadIdx.x != 7) { // lane 7 never comes
        __syncwarp();
    }
}

__global__ void leave_early(int *out) {
    if (threadIdx.x % 2) {
        return;
    }
    __syncthreads();
    atomicAdd(out, 1);
}

__global__ void nothing() {}

// ---- promises -------------------------------------------------------------------------------------------------

bool reads_neighbours() {
    std::vector<int> out(3 * 96, -1);
    EXPECT(run(turn_round, 3, 96, 96 * sizeof(int), nullptr, out.data()) == cudaSuccess);
    for (size_t i = 0; i < out.size(); i++) {
        if (out[i] != int(95 - i % 96)) {
            return false;
        }
    }
    return true;
}

void check_threads() {
    unsigned sum = 0;
    EXPECT(run(votes, 2, 128, 0, nullptr, &sum) == cudaSuccess && sum == 2 * 128 * 10);
    int count = 0;
    EXPECT(run(leave_early, 1, 64, 0, nullptr, &count) == cudaSuccess && count == 32);
    EXPECT(run(diverge, 1, 32, 0, nullptr) == cudaErrorLaunchFailure);
    for (const char *order : {"forward", "reverse"}) {
        setenv("INFINIOP_EMULATOR_ORDER", order, 1);
        EXPECT(reads_neighbours());
        EXPECT(planted_defects_are_named()); // in both orders
    }
}

void check_launches() {
    EXPECT(run(nothing, dim3(1, 65536), 1, 0, nullptr) == cudaErrorInvalidConfiguration);
    EXPECT(run(nothing, 1, 1025, 0, nullptr) == cudaErrorInvalidConfiguration);
    EXPECT(run(nothing, 0, 1, 0, nullptr) == cudaErrorInvalidConfiguration);
    EXPECT(run(nothing, 1, 1, (48 << 10) + 1, nullptr) == cudaErrorInvalidConfiguration);
    EXPECT(launch(nothing, 1, 1, 100 << 10, nullptr) == INFINI_STATUS_SUCCESS); // it asks first
    EXPECT(launch(nothing, 0, 1, 0, nullptr) == INFINI_STATUS_SUCCESS);
}

void check_capture() {
    cudaStream_t stream, joined;
    cudaEvent_t event;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStreamCreateWithFlags(&stream, 0);
    cudaStreamCreateWithFlags(&joined, 0);
    cudaEventCreateWithFlags(&event, 0);
    int count = 0;
    void *memory = nullptr;
    EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    EXPECT(run(leave_early, 1, 64, 0, stream, &count) == cudaSuccess);
    cudaEventRecord(event, stream);
    cudaStreamWaitEvent(joined, event, 0);
    EXPECT(run(leave_early, 1, 64, 0, joined, &count) == cudaSuccess);
    EXPECT(cudaMalloc(&memory, 8) != cudaSuccess && cudaStreamSynchronize(stream) != cudaSuccess);
    EXPECT(cudaStreamEndCapture(stream, &graph) == cudaSuccess && count == 0);
    EXPECT(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    EXPECT(cudaGraphLaunch(exec, stream) == cudaSuccess && cudaGraphLaunch(exec, stream) == cudaSuccess);
    EXPECT(count == 2 * 64);
    EXPECT(run(leave_early, 1, 64, 0, joined, &count) == cudaSuccess && count == 2 * 64 + 32); // it left the capture
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaEventDestroy(event);
    cudaStreamDestroy(joined);
    cudaStreamDestroy(stream);
}

// ---- plans ----------------------------------------------------------------------------------------------------

void check_plans(std::mt19937_64 &random) {
    const auto between = [&](int64_t low, int64_t high) {
        return std::uniform_int_distribution<int64_t>(low, high)(random);
    };
    for (int i = 0; i < 20000; i++) {
        Limits limits = {};
        limits.multiprocessors = int(between(1, 200));
        limits.threads_per_block = int(between(512, 5000));
        limits.threads_per_multiprocessor = 2048;
        EXPECT(block_limit(limits) <= limits.threads_per_block);

        const int64_t items = between(0, int64_t(1) << between(1, 40));
        const Plan plan = plan_items(limits, items);
        EXPECT(plan.threads <= limits.threads_per_block && plan.threads % warp_size == 0);
        EXPECT((plan.blocks == 0) == (items == 0) && int64_t(plan.blocks) * plan.threads < items + plan.threads);

        const int64_t width = between(1, 1 << 20);
        const int threads = plan_row_threads(width, 8, 1024);
        EXPECT(threads % warp_size == 0 && (threads & (threads - 1)) == 0 && threads <= 1024);

        // Rows: units divide everything, blocks cover all rows with threads that the device has.
        const size_t element = size_t(1) << between(0, 3);
        const int64_t stride = between(-300, 300) * int64_t(element), row = between(1, 5000);
        const void *address = reinterpret_cast<const void *>(uintptr_t(between(1, 1000)) * element);
        const RowShape shape = RowShape::of(row, element, between(0, 3) > 0, {address}, {stride});
        EXPECT(shape.unit >= element && shape.unit <= 16 &&
               shape.units * int64_t(shape.unit) == row * int64_t(element));
        EXPECT(shape.unit == element || (uintptr_t(address) % shape.unit == 0 && stride % int64_t(shape.unit) == 0));
        const dim3 block = shape.block(limits);
        EXPECT(int(block.x * block.y) <= limits.threads_per_block && block.x * block.y % warp_size == 0);
        EXPECT(block.x == 1 || int64_t(block.x / 2) < shape.units); // no more threads than units, but for rounding up
        const int64_t rows = between(1, int64_t(1) << 31);
        EXPECT(int64_t(row_grid(rows, block).x) * block.y >= rows);
    }
}

} // namespace

int main() {
    check_threads();
    check_launches();
    check_capture();
    std::mt19937_64 random(7);
    check_plans(random);
    puts("all kept");
}
