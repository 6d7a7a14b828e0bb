#include "../checked.h"

#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>

#include "../device.cuh"
#include "integers.cuh"

namespace infiniop::nvidia {
namespace {

struct Bounds {
    int64_t low, high;          // of integers
    double low_real, high_real; // of F32
};

// The first offender's position, in row-major order; all ones: none.
__global__ void check_kernel(Values v, Bounds bounds, unsigned long long *first) {
    const int64_t count = v.rows * v.columns;
    for (int64_t i = global_thread(); i < count; i += grid_threads()) {
        const int64_t row = i / v.columns, at = row * v.row_stride + (i - row * v.columns) * v.column_stride;
        bool good;
        if (v.dtype == INFINI_DTYPE_F32) {
            const double value = static_cast<const float *>(v.data)[at];
            good = value >= bounds.low_real && value <= bounds.high_real;
        } else {
            const int64_t value = integer_at(v.data, v.dtype, at);
            good = value >= bounds.low && value <= bounds.high;
        }
        if (!good) {
            atomicMin(first, static_cast<unsigned long long>(i));
        }
    }
}

// Frees itself: checked mode is for finding errors, not for speed.
struct Answer {
    unsigned long long *device = nullptr;
    ~Answer() { cudaFree(device); }
};

// `value`: its bytes, filled up to eight.
Text describe(const Values &v, int64_t i, const char (&value)[8]) {
    char number[32];
    if (v.dtype == INFINI_DTYPE_F32) {
        float real;
        memcpy(&real, value, sizeof(real));
        snprintf(number, sizeof(number), "%g", double(real));
    } else {
        int64_t bits;
        memcpy(&bits, value, sizeof(bits));
        const unsigned unused = unsigned(64 - 8 * element_size(v.dtype));
        const bool is_unsigned = v.dtype == INFINI_DTYPE_U8 || v.dtype == INFINI_DTYPE_U16 ||
                                 v.dtype == INFINI_DTYPE_U32 || v.dtype == INFINI_DTYPE_U64;
        if (is_unsigned) {
            snprintf(number, sizeof(number), "%llu", static_cast<unsigned long long>(bits));
        } else {
            snprintf(number, sizeof(number), "%lld",
                     static_cast<long long>(int64_t(uint64_t(bits) << unused) >> unused));
        }
    }
    return v.rows == 1 ? Text("%s at [%lld]", number, static_cast<long long>(i))
                       : Text("%s at [%lld, %lld]", number, static_cast<long long>(i / v.columns),
                              static_cast<long long>(i % v.columns));
}

Status check_bounds(const Values &v, const Bounds &bounds, const char *expected, cudaStream_t stream) {
    if (v.rows * v.columns == 0 || is_capturing(stream)) {
        return INFINI_STATUS_SUCCESS;
    }
    Answer answer;
    unsigned long long first = ~0ull;
    constexpr const char *doing = "checking values";
    Status status = check(cudaMalloc(reinterpret_cast<void **>(&answer.device), sizeof(first)), doing);
    if (status == INFINI_STATUS_SUCCESS) {
        status = check(cudaMemsetAsync(answer.device, 0xff, sizeof(first), stream), doing);
    }
    if (status == INFINI_STATUS_SUCCESS) {
        const unsigned blocks = unsigned(std::min<int64_t>(ceil_div(v.rows * v.columns, 256), 1024));
        status = launch(check_kernel, dim3(blocks), dim3(256), 0, stream, v, bounds, answer.device);
    }
    if (status == INFINI_STATUS_SUCCESS) {
        status = check(cudaMemcpyAsync(&first, answer.device, sizeof(first), cudaMemcpyDeviceToHost, stream), doing);
    }
    if (status == INFINI_STATUS_SUCCESS) {
        status = check(cudaStreamSynchronize(stream), doing);
    }
    if (status != INFINI_STATUS_SUCCESS || first == ~0ull) {
        return status;
    }
    const int64_t i = int64_t(first), at = i / v.columns * v.row_stride + i % v.columns * v.column_stride;
    const int64_t size = int64_t(element_size(v.dtype));
    char value[8] = {};
    status = check(
        cudaMemcpy(value, static_cast<const char *>(v.data) + at * size, size_t(size), cudaMemcpyDeviceToHost), doing);
    return status != INFINI_STATUS_SUCCESS
               ? status
               : fail(INFINI_STATUS_BAD_PARAM, v.op, v.argument, expected, describe(v, i, value));
}

} // namespace

bool checked() {
    static const bool on = [] {
        const char *text = getenv("INFINIOP_CHECKED");
        return text && strcmp(text, "1") == 0;
    }();
    return on;
}

Status check_values(const Values &values, int64_t low, int64_t high, infinirtStream_t stream) {
    const Text expected =
        low == std::numeric_limits<int64_t>::min()
            ? Text("values below %lld", static_cast<long long>(high + 1))
            : Text("values from %lld to %lld", static_cast<long long>(low), static_cast<long long>(high));
    return check_bounds(values, {low, high, 0, 0}, expected, static_cast<cudaStream_t>(stream));
}

Status check_values(const Values &values, double low, double high, const char *expected, infinirtStream_t stream) {
    return check_bounds(values, {0, 0, low, high}, expected, static_cast<cudaStream_t>(stream));
}

} // namespace infiniop::nvidia
