// Two results of one call, element by element.
#pragma once

#include <string>

#include "validate.hpp"

namespace infini {

// By how much they may differ, from an operator's schema; `factor` widens it. Schemas are made for numbers of about 1:
// `scale` is the largest number among the results, where they are larger.
struct Bound {
    const Tolerance *tolerance; // nullptr: not at all
    double factor;
    double scale = 1;
};
Bound bound_of(const OperatorSchema &schema, const infiniopTensorView *const *tensors, double factor);

// What differs, as a sentence with both results' names; "": nothing. Host memory.
std::string difference(const infiniopTensorView &view, const void *expected, const void *actual, Bound bound);

// Elements, from the first to the last, as byte offsets from element [0, …, 0]. Stops when `visit` answers false.
template <class Visit> void each_element(const infiniopTensorView &view, Visit &&visit) {
    if (is_empty(view)) {
        return;
    }
    std::vector<size_t> at(view.ndim, 0);
    const ptrdiff_t size = static_cast<ptrdiff_t>(element_size(view.dtype));
    ptrdiff_t offset = 0;
    while (visit(offset * size, at)) {
        size_t axis = view.ndim;
        while (axis-- > 0) {
            offset += view.strides[axis];
            if (++at[axis] < view.shape[axis]) {
                break;
            }
            offset -= view.strides[axis] * static_cast<ptrdiff_t>(view.shape[axis]);
            at[axis] = 0;
        }
        if (axis == static_cast<size_t>(-1)) {
            return;
        }
    }
}

} // namespace infini
