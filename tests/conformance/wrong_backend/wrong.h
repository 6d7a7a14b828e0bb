// The wrong backend: simple, right kernels, and faults that can be switched on one at a time.
//
// WRONG_BACKEND_FAULT=op/name chooses a fault; it is read whenever a descriptor is made. Without it everything is
// right. WRONG_BACKEND_DEVICE=lazy gives the backend a device of its own, whose streams run nothing before somebody
// waits.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "infiniop/backend.h"

namespace wrong {

using Status = infiniStatus_t;

extern const infiniopHost *host;
extern bool lazy; // a device of its own

Status fail(Status status, const char *op, const char *argument, const char *expected, const std::string &got);

// ---- faults ---------------------------------------------------------------------------------------------------

// Where a fault can be seen.
enum class Seen { anywhere, on_streams, far_away }; // on_streams: on the lazy device; far_away: in cases of GiB

// One thing to do wrong. `op` "*": in any operator.
class Fault {
public:
    Fault(const char *op, const char *name, const char *what, Seen seen = Seen::anywhere);
    explicit operator bool() const { return chosen == this; }
    bool in(const char *op) const { return chosen == this && chosen_op == op; }
    static void choose(); // from the environment

    const char *const op, *const name, *const what;
    const Seen seen;
    const Fault *const next;

    static const Fault *first;

private:
    static std::atomic<const Fault *> chosen;
    static std::string chosen_op;
};

// ---- elements -------------------------------------------------------------------------------------------------

size_t size_of(infiniDtype_t dtype);
bool is_integer(infiniDtype_t dtype);
double get(infiniDtype_t dtype, const char *from);
int64_t get_integer(infiniDtype_t dtype, const char *from);
void put(infiniDtype_t dtype, char *to, double value); // rounds to nearest even, once
void put_integer(infiniDtype_t dtype, char *to, int64_t value);
double round_to(infiniDtype_t dtype, double value);

enum class Rounding { nearest_even, truncate, ties_away, saturate, flush };
void put_rounded(infiniDtype_t dtype, char *to, double value, Rounding how);

// ---- calls ----------------------------------------------------------------------------------------------------

struct View {
    bool present = false;
    infiniDtype_t dtype = INFINI_DTYPE_INVALID;
    std::vector<size_t> shape;
    std::vector<ptrdiff_t> strides; // elements

    size_t rank() const { return shape.size(); }
    size_t size() const { return size_of(dtype); }
    size_t count() const;
    size_t last() const { return shape.back(); }
    ptrdiff_t low() const;                // element offset of the lowest element
    ptrdiff_t high() const;               // and of the highest
    ptrdiff_t offset(size_t index) const; // of the index-th element in row-major order
    ptrdiff_t clamp(ptrdiff_t offset) const;
    View row_major() const; // the same shape without gaps
};

// One call of calculate.
struct Job {
    const char *op;
    const std::vector<View> &views;
    std::vector<char *> data;
    std::vector<infiniopValue> attrs;
    char *workspace;
    bool first;      // of this descriptor
    bool in_32_bits; // offsets in bytes, which is a fault

    char *at(size_t tensor, ptrdiff_t offset) const {
        const ptrdiff_t bytes = offset * ptrdiff_t(views[tensor].size());
        return data[tensor] + (in_32_bits && bytes > 0 ? ptrdiff_t(uint32_t(bytes)) : bytes);
    }
    double number(size_t tensor, ptrdiff_t offset) const { return get(views[tensor].dtype, at(tensor, offset)); }
    int64_t integer(size_t tensor, ptrdiff_t offset) const {
        return get_integer(views[tensor].dtype, at(tensor, offset));
    }
    void store(size_t tensor, ptrdiff_t offset, double value) const {
        put(views[tensor].dtype, at(tensor, offset), value);
    }
};

struct Operator {
    const char *name;
    uint32_t version;
    unsigned outputs; // bit i: tensor i is written
    size_t (*workspace)(const std::vector<View> &views);
    Status (*run)(const Job &job);
    Status (*check)(const Job &job); // (optional) values inside tensors; a lazy device has no answer to give
};

extern const Operator add, relu, rms_norm, add_rms_norm, softmax, gemm, paged_caching, paged_attention, sample;
inline const Operator *const operators[] = {&add,  &relu,          &rms_norm,        &add_rms_norm, &softmax,
                                            &gemm, &paged_caching, &paged_attention, &sample};

inline size_t no_workspace(const std::vector<View> &) { return 0; }

} // namespace wrong
