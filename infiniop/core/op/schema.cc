#include <algorithm>
#include <array>
#include <cstdlib>
#include <numeric>
#include <optional>

#include "objects.hpp"

namespace infini {
namespace {

struct DtypeInfo {
    const char *name;
    size_t size;
};
constexpr std::array<DtypeInfo, 20> dtypes{{{"INVALID", 0}, {"BYTE", 1}, {"BOOL", 1}, {"I8", 1},    {"I16", 2},
                                            {"I32", 4},     {"I64", 8},  {"U8", 1},   {"U16", 2},   {"U32", 4},
                                            {"U64", 8},     {"F8", 1},   {"F16", 2},  {"F32", 4},   {"F64", 8},
                                            {"C16", 2},     {"C32", 4},  {"C64", 8},  {"C128", 16}, {"BF16", 2}}};

template <class Range> std::string list(const Range &values, size_t count) {
    std::string text = "[";
    for (size_t i = 0; i < count; ++i) {
        text += (i ? ", " : "") + std::to_string(values[i]);
    }
    return text + "]";
}

std::string shape_text(const infiniopTensorView &view) { return list(view.shape, view.ndim); }
std::string strides_text(const infiniopTensorView &view) { return "strides " + list(view.strides, view.ndim); }

// Bytes of a tensor, and between its first and last element: beyond any address space, and small enough that a kernel
// may multiply one extent by one stride without overflow.
constexpr ptrdiff_t most_bytes = ptrdiff_t{1} << 60;

// Extents of 0 count as 1.
bool size_fits(const infiniopTensorView &view) {
    ptrdiff_t bytes = static_cast<ptrdiff_t>(std::max<size_t>(element_size(view.dtype), 1));
    for (size_t i = 0; i < view.ndim; ++i) {
        if (__builtin_mul_overflow(bytes, std::max<size_t>(view.shape[i], 1), &bytes)) {
            return false;
        }
    }
    return bytes <= most_bytes;
}

bool offsets_fit(const infiniopTensorView &view) {
    ptrdiff_t low = 0, high = 0;
    for (size_t i = 0; i < view.ndim; ++i) {
        const ptrdiff_t last = static_cast<ptrdiff_t>(view.shape[i]) - 1;
        ptrdiff_t span;
        if (last > 0 && (__builtin_mul_overflow(last, view.strides[i], &span) ||
                         __builtin_add_overflow(span < 0 ? low : high, span, span < 0 ? &low : &high))) {
            return false;
        }
    }
    const ptrdiff_t size = static_cast<ptrdiff_t>(std::max<size_t>(element_size(view.dtype), 1));
    ptrdiff_t bytes;
    return !__builtin_sub_overflow(high, low, &bytes) && !__builtin_add_overflow(bytes, 1, &bytes) &&
           !__builtin_mul_overflow(bytes, size, &bytes) && bytes <= most_bytes;
}

// Strides of axes with extent 1 never matter, and none of a tensor without elements: make them what kernels expect.
void normalise_strides(const infiniopTensorView &view, Strides rule, ptrdiff_t *strides) {
    const bool empty = is_empty(view);
    ptrdiff_t next = 1;
    for (size_t i = view.ndim; i-- > 0;) {
        if (empty || view.shape[i] == 1) {
            strides[i] = next;
        }
        if (__builtin_mul_overflow(strides[i], static_cast<ptrdiff_t>(std::max<size_t>(view.shape[i], 1)), &next)) {
            next = 1;
        }
    }
    const size_t n = view.ndim;
    if (rule == Strides::matrix && n >= 2 && strides[n - 1] != 1 && view.shape[n - 2] == 1) {
        strides[n - 2] = 1;
    }
}

bool is_contiguous(const infiniopTensorView &view) {
    ptrdiff_t expected = 1;
    for (size_t i = view.ndim; i-- > 0;) {
        if (view.shape[i] != 1 && view.strides[i] != expected) {
            return false;
        }
        expected *= static_cast<ptrdiff_t>(view.shape[i]);
    }
    return true;
}

bool has_broadcast(const infiniopTensorView &view) {
    for (size_t i = 0; i < view.ndim; ++i) {
        if (view.strides[i] == 0 && view.shape[i] > 1) {
            return true;
        }
    }
    return false;
}

// Whether two axes alone lead to an element twice, as strides of 1 and 1 do.
bool meets_itself(const infiniopTensorView &view) {
    const auto steps = [&](size_t i, size_t j) { // of axis i, until it meets axis j
        return static_cast<size_t>(std::abs(view.strides[j]) / std::gcd(view.strides[i], view.strides[j]));
    };
    for (size_t i = 0; i < view.ndim; ++i) {
        for (size_t j = 0; j < i; ++j) {
            if (view.shape[i] > 1 && view.shape[j] > 1 && steps(i, j) < view.shape[i] && steps(j, i) < view.shape[j]) {
                return true;
            }
        }
    }
    return false;
}

// What is wrong with the strides, as "expected"; nullptr: nothing.
const char *stride_violation(const TensorSchema &tensor, const infiniopTensorView &view) {
    const size_t n = view.ndim;
    const auto unit = [&](size_t from_end) { return view.shape[n - from_end] == 1 || view.strides[n - from_end] == 1; };
    if (tensor.role != Role::in && has_broadcast(view)) {
        return "no stride of 0 in an output";
    }
    if (tensor.role != Role::in && meets_itself(view)) {
        return "a place of its own for each element of an output";
    }
    switch (tensor.strides) {
    case Strides::any:
        return nullptr;
    case Strides::unit_last:
        return n == 0 || unit(1) ? nullptr : "a last stride of 1";
    case Strides::contiguous:
        return is_contiguous(view) ? nullptr : "row-major strides without gaps";
    case Strides::matrix:
        return n < 2 || unit(1) || unit(2) ? nullptr : "a stride of 1 in one of the last two axes";
    }
    return nullptr;
}

// One create call on its way through the schema.
class Validation {
public:
    Validation(const OperatorSchema &schema, const infiniopValue *attrs, Binding &binding)
        : schema_(schema), attrs_(attrs), b_(binding), axis_bound_(schema.naxes), groups_(schema.ngroups),
          group_rank_(schema.ngroups), dtype_owner_(schema.ndtype_vars) {
        b_.axis.assign(schema.naxes, 1);
        b_.group_size.assign(schema.ngroups, 1);
        b_.group_ndim.assign(schema.ngroups, 0);
        b_.dtype.assign(schema.ndtype_vars, INFINI_DTYPE_INVALID);
    }

    infiniStatus_t run(const infiniopTensorDescriptor_t *descriptors) {
        if (const infiniStatus_t status = make_views(descriptors)) {
            return status;
        }
        using Step = infiniStatus_t (Validation::*)(size_t);
        for (const Step step : {&Validation::check_size, &Validation::bind_dtype}) {
            if (const infiniStatus_t status = for_each(step)) {
                return status;
            }
        }
        if (const infiniStatus_t status = fix_group_ranks()) {
            return status;
        }
        if (const infiniStatus_t status = for_each(&Validation::bind_shape)) {
            return status;
        }
        return for_each(&Validation::check_strides);
    }

private:
    const TensorSchema &tensor(size_t i) const { return schema_.tensors[i]; }
    const infiniopTensorView &view(size_t i) const { return b_.views[i]; }

    infiniStatus_t error(infiniStatus_t status, size_t i, std::string_view expected, std::string_view got) const {
        return fail(status, schema_.name, tensor(i).name, expected, got);
    }

    template <class Step> infiniStatus_t for_each(Step step) {
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            if (b_.tensors[i]) {
                if (const infiniStatus_t status = (this->*step)(i)) {
                    return status;
                }
            }
        }
        return INFINI_STATUS_SUCCESS;
    }

    infiniStatus_t make_views(const infiniopTensorDescriptor_t *descriptors) {
        size_t total = 0;
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            if (!descriptors[i] && tensor(i).optional) {
                continue;
            }
            if (!descriptors[i]) {
                return error(INFINI_STATUS_NULL_POINTER, i, "a tensor descriptor", "NULL");
            }
            if (const infiniStatus_t status = check_object(schema_.name, tensor(i).name, descriptors[i])) {
                return status;
            }
            total += descriptors[i]->ndim;
        }
        b_.shapes.reserve(total);
        b_.strides.reserve(total);
        b_.views.resize(schema_.ntensors);
        b_.tensors.assign(schema_.ntensors, nullptr);
        for (size_t i = 0; i < schema_.ntensors; ++i) {
            if (descriptors[i]) {
                add_view(i, *descriptors[i]);
            }
        }
        return INFINI_STATUS_SUCCESS;
    }

    void add_view(size_t i, const InfiniopTensorDescriptor &d) {
        const size_t at = b_.shapes.size();
        b_.shapes.insert(b_.shapes.end(), d.shape.begin(), d.shape.end());
        b_.strides.insert(b_.strides.end(), d.strides.begin(), d.strides.end());
        b_.views[i] = {sizeof(infiniopTensorView), d.dtype, d.ndim, b_.shapes.data() + at, b_.strides.data() + at};
        b_.tensors[i] = &b_.views[i];
    }

    infiniStatus_t check_size(size_t i) {
        if (!size_fits(view(i))) {
            return error(INFINI_STATUS_BAD_TENSOR_SHAPE, i, "at most 2^60 bytes", shape_text(view(i)));
        }
        if (!is_empty(view(i)) && !offsets_fit(view(i))) {
            return error(INFINI_STATUS_BAD_TENSOR_STRIDES, i, "offsets of at most 2^60 bytes",
                         shape_text(view(i)) + " with " + strides_text(view(i)));
        }
        return INFINI_STATUS_SUCCESS;
    }

    infiniStatus_t bind_dtype(size_t i) {
        const infiniDtype_t got = view(i).dtype;
        const int variable = tensor(i).dtype_var;
        if (variable < 0) {
            return got == tensor(i).dtype
                       ? INFINI_STATUS_SUCCESS
                       : error(INFINI_STATUS_BAD_TENSOR_DTYPE, i, dtype_name(tensor(i).dtype), dtype_name(got));
        }
        const size_t v = static_cast<size_t>(variable);
        if (!dtype_owner_[v]) {
            const DtypeVar &var = schema_.dtype_vars[v];
            if (std::find(var.allowed, var.allowed + var.nallowed, got) == var.allowed + var.nallowed) {
                return error(INFINI_STATUS_BAD_TENSOR_DTYPE, i, one_of(var), dtype_name(got));
            }
            dtype_owner_[v] = tensor(i).name;
            b_.dtype[v] = got;
        }
        if (b_.dtype[v] == static_cast<int>(got)) {
            return INFINI_STATUS_SUCCESS;
        }
        return error(INFINI_STATUS_BAD_TENSOR_DTYPE, i,
                     std::string(dtype_name(static_cast<infiniDtype_t>(b_.dtype[v]))) + " as in " + dtype_owner_[v],
                     dtype_name(got));
    }

    static std::string one_of(const DtypeVar &var) {
        std::string text;
        for (size_t i = 0; i < var.nallowed; ++i) {
            text += (i == 0 ? "" : i + 1 == var.nallowed ? " or " : ", ") + std::string(dtype_name(var.allowed[i]));
        }
        return text;
    }

    infiniStatus_t fix_group_ranks() {
        for (size_t g = 0; g < schema_.ngroups; ++g) {
            if (!schema_.group_rank || !schema_.group_rank[g]) {
                continue;
            }
            const int64_t rank = schema_.group_rank[g](b_.env(attrs_));
            if (rank < 0 || rank > static_cast<int64_t>(max_rank)) {
                return fail(schema_.rank_status, schema_.name, schema_.groups[g], "0 to 64 axes", std::to_string(rank));
            }
            group_rank_[g] = static_cast<size_t>(rank);
        }
        return INFINI_STATUS_SUCCESS;
    }

    // Axes of the alternative without its open groups; how many groups are open.
    std::pair<size_t, size_t> fixed_rank(const ShapeAlternative &shape) const {
        size_t fixed = 0, open = 0;
        for (size_t t = 0; t < shape.ntokens; ++t) {
            const AxisToken token = shape.tokens[t];
            fixed += token.group ? group_rank_[token.index].value_or(0) : 1;
            open += token.group && !group_rank_[token.index];
        }
        return {fixed, open};
    }

    const ShapeAlternative *choose(const TensorSchema &t, size_t rank) const {
        for (size_t a = 0; a < t.nalternatives; ++a) {
            const auto [fixed, open] = fixed_rank(t.alternatives[a]);
            if (rank == fixed || (rank > fixed && open == 1)) {
                return &t.alternatives[a];
            }
        }
        return nullptr;
    }

    infiniStatus_t bind_shape(size_t i) {
        const TensorSchema &t = tensor(i);
        const ShapeAlternative *shape = choose(t, view(i).ndim);
        if (!shape || view(i).ndim < t.min_rank || view(i).ndim > t.max_rank) {
            return error(schema_.rank_status, i, expected_shape(t), shape_text(view(i)));
        }
        const size_t open_rank = view(i).ndim - fixed_rank(*shape).first;
        if (const std::optional<std::string> expected = mismatch(*shape, view(i), open_rank)) {
            return error(schema_.shape_status, i, *expected, shape_text(view(i)));
        }
        return INFINI_STATUS_SUCCESS;
    }

    // Bind the extents; when one contradicts what is bound: the shape that was expected.
    std::optional<std::string> mismatch(const ShapeAlternative &shape, const infiniopTensorView &v, size_t open_rank) {
        const std::string expected = expected_shape(shape); // before this tensor binds anything
        const size_t *extent = v.shape;
        for (size_t k = 0; k < shape.ntokens; ++k) {
            const AxisToken token = shape.tokens[k];
            const size_t length = token.group ? group_rank_[token.index].value_or(open_rank) : 1;
            if (!(token.group ? bind_group(token.index, extent, length) : bind_axis(token.index, *extent))) {
                return expected;
            }
            extent += length;
        }
        return std::nullopt;
    }

    bool bind_axis(size_t a, size_t extent) {
        if (!axis_bound_[a]) {
            axis_bound_[a] = true;
            b_.axis[a] = static_cast<int64_t>(extent);
        }
        return b_.axis[a] == static_cast<int64_t>(extent);
    }

    bool bind_group(size_t g, const size_t *extents, size_t length) {
        const std::vector<size_t> found(extents, extents + length);
        if (!groups_[g]) {
            groups_[g] = found;
            group_rank_[g] = length;
            b_.group_ndim[g] = static_cast<int64_t>(length);
            b_.group_size[g] = std::accumulate(found.begin(), found.end(), int64_t{1}, [](int64_t product, size_t n) {
                return product * static_cast<int64_t>(n);
            });
        }
        return *groups_[g] == found;
    }

    // "[ntok=6, nkvh=2, dv]": names, and extents where they are bound.
    std::string expected_shape(const ShapeAlternative &shape) const {
        std::string text = "[";
        for (size_t k = 0; k < shape.ntokens; ++k) {
            const AxisToken token = shape.tokens[k];
            text += k ? ", " : "";
            if (token.group) {
                const auto &bound = groups_[token.index];
                text += std::string("*") + schema_.groups[token.index];
                text += bound ? "=" + list(*bound, bound->size()) : "";
            } else {
                text += schema_.axes[token.index];
                text += axis_bound_[token.index] ? "=" + std::to_string(b_.axis[token.index]) : "";
            }
        }
        return text + "]";
    }

    std::string expected_shape(const TensorSchema &t) const {
        std::string text;
        for (size_t a = 0; a < t.nalternatives; ++a) {
            text += (a ? " or " : "") + expected_shape(t.alternatives[a]);
        }
        if (t.min_rank > 0 || t.max_rank < 255) {
            text += " of " + std::to_string(t.min_rank) + " to " + std::to_string(t.max_rank) + " axes";
        }
        return text;
    }

    infiniStatus_t check_strides(size_t i) {
        const char *expected = is_empty(view(i)) ? nullptr : stride_violation(tensor(i), view(i));
        if (expected) {
            return error(INFINI_STATUS_BAD_TENSOR_STRIDES, i, expected,
                         strides_text(view(i)) + " for shape " + shape_text(view(i)));
        }
        normalise_strides(view(i), tensor(i).strides, b_.strides.data() + (view(i).strides - b_.strides.data()));
        return INFINI_STATUS_SUCCESS;
    }

    const OperatorSchema &schema_;
    const infiniopValue *attrs_;
    Binding &b_;
    std::vector<bool> axis_bound_;
    std::vector<std::optional<std::vector<size_t>>> groups_;
    std::vector<std::optional<size_t>> group_rank_;
    std::vector<const char *> dtype_owner_; // the tensor that bound it
};

std::string value_text(const ValueRef &use, const SchemaEnv &e) {
    switch (use.kind) {
    case ValueKind::axis:
        return std::to_string(e.axis[use.index]);
    case ValueKind::group_size:
        return std::to_string(e.group_size[use.index]);
    case ValueKind::group_ndim:
        return std::to_string(e.group_ndim[use.index]);
    case ValueKind::attr_integer:
        return std::to_string(e.attrs[use.index].i);
    case ValueKind::attr_real:
        return std::to_string(e.attrs[use.index].f);
    case ValueKind::dtype:
        return dtype_name(static_cast<infiniDtype_t>(e.dtype[use.index]));
    case ValueKind::shape:
        return e.tensors[use.index] ? shape_text(*e.tensors[use.index]) : "none";
    }
    return "?";
}

std::string offending_values(const OperatorSchema &schema, const ConstraintSchema &constraint, const SchemaEnv &env) {
    std::string text;
    for (size_t u = 0; u < constraint.nuses; ++u) {
        const ValueRef &use = constraint.uses[u];
        text += (u ? ", " : "") + std::string(use.name) + " = " + value_text(use, env);
    }
    for (size_t i = 0; i < schema.ntensors; ++i) {
        if (env.tensors[i] && schema.tensors[i].name == std::string_view(constraint.argument)) {
            text += (text.empty() ? "" : ", ") + std::string("shape ") + shape_text(*env.tensors[i]) + ", " +
                    strides_text(*env.tensors[i]);
        }
    }
    return text;
}

} // namespace

size_t element_size(infiniDtype_t dtype) {
    const size_t code = static_cast<size_t>(raw(dtype));
    return code < dtypes.size() ? dtypes[code].size : 0;
}

const char *dtype_name(infiniDtype_t dtype) {
    const size_t code = static_cast<size_t>(raw(dtype));
    return code < dtypes.size() ? dtypes[code].name : "unknown";
}

bool is_empty(const infiniopTensorView &view) {
    return std::find(view.shape, view.shape + view.ndim, size_t{0}) != view.shape + view.ndim;
}

infiniStatus_t validate(const OperatorSchema &schema, const infiniopTensorDescriptor_t *descriptors,
                        const infiniopValue *attrs, Binding &binding) {
    if (schema.ntensors > max_tensors || schema.nattrs > max_attrs) {
        return fail(INFINI_STATUS_INTERNAL_ERROR, schema.name, "the schema has too many arguments");
    }
    if (const infiniStatus_t status = Validation(schema, attrs, binding).run(descriptors)) {
        return status;
    }
    return check_constraints(schema, binding.env(attrs), false);
}

infiniStatus_t check_constraints(const OperatorSchema &schema, const SchemaEnv &env, bool at_run) {
    for (size_t c = 0; c < schema.nconstraints; ++c) {
        const ConstraintSchema &constraint = schema.constraints[c];
        if (constraint.at_run == at_run && !constraint.holds(env)) {
            return fail(constraint.status, schema.name, constraint.argument, constraint.expected,
                        offending_values(schema, constraint, env));
        }
    }
    return INFINI_STATUS_SUCCESS;
}

infiniStatus_t array_bytes(const OperatorSchema &schema, const AttrSchema &attr, const infiniopValue &value,
                           const SchemaEnv &env, size_t *bytes) {
    const int64_t length = attr.length(env);
    if (length < 0 || __builtin_mul_overflow(static_cast<size_t>(length), attr.element_size, bytes)) {
        return fail(INFINI_STATUS_BAD_PARAM, schema.name, attr.name, "a length that fits", std::to_string(length));
    }
    if (length && !value.p) {
        return fail(INFINI_STATUS_NULL_POINTER, schema.name, attr.name, std::to_string(length) + " values", "NULL");
    }
    return INFINI_STATUS_SUCCESS;
}

} // namespace infini
