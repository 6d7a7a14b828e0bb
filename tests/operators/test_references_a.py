"""References of elementwise, norm, rope, softmax and gather operators against torch or a closed form."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from infiniop.operators import all_operators
from infiniop.schema import F16, F32, F64, BadValue, Operator, Sample, Status, dtype

torch = pytest.importorskip("torch")
functional = torch.nn.functional

Tensors = Mapping[str, object]
Result = dict[str, object]


def _binary(function) -> Callable[..., Result]:
    return lambda a, b: {"c": function(a, b)}


def _unary(output: str, input: str, function) -> Callable[..., Result]:
    return lambda **x: {output: function(x[input])}


def _gelu(x):
    """The formula: torch's own f32 GELU on AVX-512 makes infinity NaN and is off by 1e-6."""
    return 0.5 * x * torch.special.erfc(-x / 2**0.5)


def _rms(x, w, epsilon):
    return functional.rms_norm(x, x.shape[-1:], w, epsilon)


def _add_rms_norm(a, b, weight, epsilon, rounded) -> Result:
    total = a + b
    mean_square = torch.linalg.vector_norm(total, dim=-1, keepdim=True).square() / total.shape[-1]
    return {"residual_out": total, "y": rounded(total) * weight / torch.sqrt(mean_square + epsilon)}


def _layer_norm(input, weight, bias, eps) -> Result:
    output, _, inverse = torch.native_layer_norm(input, input.shape[-1:], weight, bias, eps)
    standardized = functional.layer_norm(input, input.shape[-1:], None, None, eps)
    return {"output": output, "input_standardization": standardized, "input_std_deviation": 1 / inverse[..., 0]}


def _rope(x, pos_ids, sin_table, cos_table, algo) -> Result:
    """Rotation as a product of complex numbers."""
    rotation = torch.complex(cos_table, sin_table)[pos_ids.long()]
    half = x.shape[-1] // 2
    pairs = x.unflatten(-1, (half, 2)) if algo == 0 else x.unflatten(-1, (2, half)).transpose(-1, -2)
    turned = torch.complex(pairs[..., 0], pairs[..., 1]) * rotation[..., None, :]
    pairs = torch.view_as_real(turned)
    return {"y": (pairs if algo == 0 else pairs.transpose(-1, -2)).reshape(x.shape)}


def _causal_softmax(x) -> Result:
    """Row by row over the kept columns alone."""
    y = torch.zeros_like(x)
    s, t = x.shape[-2:]
    for i in range(s):
        kept = i + t - s + 1
        y[..., i, :kept] = torch.softmax(x[..., i, :kept], -1)
    return {"y": y}


def _embedding(input, weight, output) -> Result:
    known = (input >= 0) & (input < len(weight))
    expected = output.clone()
    if known.any():
        expected[known] = functional.embedding(input[known].long(), weight)
    return {"output": expected}


def _last_tokens(hidden_states, input_offsets) -> Result:
    tokens = hidden_states.flatten(0, 1)
    return {"output": torch.stack([tokens[:end][-1] for end in input_offsets.tolist()[1:]])[None]}


INDEPENDENT: dict[str, Callable[..., Result]] = {
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "silu": _unary("output", "input", functional.silu),
    "gelu": _unary("output", "input", _gelu),
    "sigmoid": _unary("y", "x", torch.sigmoid),
    "relu": _unary("y", "x", torch.relu),
    "swiglu": _binary(lambda a, b: a * functional.silu(b)),
    "silu_and_mul": lambda input: {"output": functional.silu(input.chunk(2, -1)[0]) * input.chunk(2, -1)[1]},
    "rms_norm": lambda x, w, epsilon: {"y": _rms(x, w, epsilon)},
    "add_rms_norm": _add_rms_norm,
    "layer_norm": _layer_norm,
    "rope": _rope,
    "causal_softmax": _causal_softmax,
    "softmax": lambda x, axis: {"y": torch.softmax(x, axis)},
    "log_softmax": lambda input, dim: {"output": torch.log_softmax(input, dim)},
    "embedding": _embedding,
    "select_last_token_hidden": _last_tokens,
}
POISON = -77.0


def _operator(name: str) -> Operator:
    return all_operators()[name]


def _samples(name: str) -> list[Sample]:
    return list(_operator(name).samples(np.random.default_rng(20)))


def _poison(operator: Operator, sample: Sample) -> None:
    """Fill outputs that are not an input's memory too."""
    inputs = [sample.tensors[t.name] for t in operator.tensors if not t.is_output]
    for tensor in operator.outputs:
        array = sample.tensors[tensor.name]
        if not any(array is i for i in inputs):
            array[...] = 1 if array.dtype == bool else array.dtype.type(POISON if array.dtype.kind != "u" else 77)


def _torch(array: np.ndarray, compute):
    if array.dtype.kind in "iu":
        return torch.from_numpy(np.array(array, np.int32 if array.dtype == np.int32 else np.int64, order="C"))
    return torch.from_numpy(np.array(array, np.float64, order="C")).to(compute)


def _rounded(values, like: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return values.numpy().astype(like.dtype)


def _independent(operator: Operator, sample: Sample, compute) -> dict[str, np.ndarray]:
    """What torch makes of the sample, computed in `compute`, rounded to the outputs' types."""
    function = INDEPENDENT[operator.name]
    arguments = {
        t.name: None if sample.tensors[t.name] is None else _torch(sample.tensors[t.name], compute)
        for t in operator.tensors
        if not t.is_output or operator.name == "embedding"
    }
    extra = {n: float(np.float32(v)) if isinstance(v, float) else v for n, v in sample.attrs.items()}
    if operator.name == "add_rms_norm":
        extra["rounded"] = lambda x: _torch(_rounded(x, sample.tensors["a"]), compute)
    results = function(**arguments, **extra)
    return {name: _rounded(values, sample.tensors[name]) for name, values in results.items()}


def _difference(actual: np.ndarray, expected: np.ndarray, atol: float, rtol: float) -> str | None:
    """A sentence when |actual - expected| > atol + rtol·|expected| somewhere."""
    if actual.dtype.kind in "iu":
        return None if np.array_equal(actual, expected) else "integers differ"
    a, e = actual.astype(np.float64), expected.astype(np.float64)
    if a.shape != e.shape:
        return f"shape {a.shape}, expected {e.shape}"
    bound = atol + rtol * np.where(np.isfinite(e), np.abs(e), 0.0)
    with np.errstate(invalid="ignore"):
        close = (a == e) | (np.isnan(a) & np.isnan(e)) | (np.abs(a - e) <= bound)
    if close.all():
        return None
    i = tuple(int(k[0]) for k in np.nonzero(~close))
    return f"{a[i]!r} at {i}, expected {e[i]!r} ({(~close).sum()} of {close.size})"


_ONE_ULP = {F16: 1e-3, dtype("BF16"): 8e-3, F32: 1.2e-7, F64: 1e-12}


@pytest.mark.parametrize("name", sorted(INDEPENDENT))
def test_reference_agrees_with_torch(name: str) -> None:
    operator = _operator(name)
    wrong = []
    for sample in _samples(name):
        _poison(operator, sample)
        expected = _independent(operator, sample, torch.float64)
        operator.reference(**sample.tensors, **sample.attrs)
        if not sample.tensors[operator.outputs[0].name].size:
            continue
        for output, values in expected.items():
            actual = sample.tensors[output]
            rtol = _ONE_ULP.get(dtype(actual.dtype), 0.0)
            # 2^-24 is F16's smallest step; a cancelled sum leaves some 1e-12 of its operands, which reach 1e5.
            atol = {F16: 6e-8, F64: 1e-11}.get(dtype(actual.dtype), 1e-9)
            difference = _difference(actual, values, atol, rtol)
            if difference:
                wrong.append(f"{sample.name}: {output} is {difference}")
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("name", sorted(INDEPENDENT))
def test_tolerances_admit_plain_arithmetic(name: str) -> None:
    """torch in f32 (F64 and integers: as they are) is within the operator's tolerances; so they can be met."""
    operator = _operator(name)
    wrong = []
    for sample in _samples(name):
        kind = dtype(sample.tensors[operator.outputs[0].name].dtype)
        _poison(operator, sample)
        actual = _independent(operator, sample, torch.float64 if kind == F64 else torch.float32)
        operator.reference(**sample.tensors, **sample.attrs)
        for output, values in actual.items() if sample.tensors[operator.outputs[0].name].size else ():
            difference = _difference(values, sample.tensors[output], *operator.tolerances.get(kind, (0.0, 0.0)))
            if difference:
                wrong.append(f"{sample.name}: {output} is {difference}")
    assert not wrong, "\n".join(wrong[:20])


def test_rearrange_copies_bits() -> None:
    operator = _operator("rearrange")
    for sample in _samples("rearrange"):
        _poison(operator, sample)
        operator.reference(**sample.tensors)
        assert sample.tensors["dst"].tobytes() == sample.tensors["src"].tobytes(), sample.name
        assert operator.compare(sample.tensors | {"dst": sample.tensors["src"]}, sample.tensors, {}, {}) is None


def test_rearrange_tells_nans_apart() -> None:
    one, other = (np.array([bits, 0], np.uint32).view(np.float32) for bits in (0x7FC00001, 0x7FC00002))
    compare = _operator("rearrange").compare
    assert "1 elements are not a copy" in (compare({"dst": one}, {"dst": other}, {}, {}) or "")


@pytest.mark.parametrize("name", [*sorted(INDEPENDENT), "rearrange"])
def test_reference_leaves_inputs_alone(name: str) -> None:
    operator = _operator(name)
    for sample in _samples(name):
        outputs = [sample.tensors[t.name] for t in operator.outputs]
        inputs = {t.name: sample.tensors[t.name] for t in operator.inputs}
        kept = {n: a.tobytes() for n, a in inputs.items() if a is not None and not any(a is o for o in outputs)}
        operator.reference(**sample.tensors, **sample.attrs)
        for n, before in kept.items():
            assert inputs[n].tobytes() == before, f"{sample.name}: {n} was written"


@pytest.mark.parametrize("name", ["rope", "select_last_token_hidden"])
def test_illegal_values_are_refused_before_anything_is_written(name: str) -> None:
    operator = _operator(name)
    errors = [e for e in operator.error_samples(np.random.default_rng(20)) if e.status == Status.BAD_PARAM]
    errors = [e for e in errors if e.at == "run"]
    assert errors
    for error in errors:
        output = error.tensors[operator.outputs[0].name]
        output[...] = POISON
        with pytest.raises(BadValue) as caught:
            operator.reference(**error.tensors, **error.attrs)
        assert caught.value.argument == error.argument, error.name
        assert (output == POISON).all(), error.name


# InfiniCore's own test: (atol, rtol) by dtype, and the largest result that its inputs give.
UPSTREAM = {
    "add": ({"F16": (1e-3, 1e-3), "BF16": (1e-3, 1e-3), "F32": (1e-7, 1e-7)}, 2.0),
    "silu": ({"F16": (1e-3, 1e-3), "BF16": (1e-2, 1e-2), "F32": (1e-7, 1e-7)}, 0.74),
    "sigmoid": ({"F16": (1e-3, 1e-3), "BF16": (1e-2, 1e-2), "F32": (1e-7, 1e-7)}, 0.74),
    "gelu": ({"F16": (1e-3, 1e-3), "BF16": (1e-2, 1e-2), "F32": (1e-5, 1e-5), "F64": (1e-6, 1e-6)}, 1.0),
    "swiglu": ({"F16": (1e-3, 1e-3), "BF16": (5e-3, 1e-2), "F32": (1e-5, 1e-5)}, 1.0),
    "silu_and_mul": ({"F16": (1e-3, 1e-3), "BF16": (1e-2, 1e-2), "F32": (1e-6, 1e-6)}, 1.0),
    "rms_norm": ({"F16": (2e-3, 2e-3), "BF16": (1e-2, 1e-2)}, 2.0),
    "add_rms_norm": ({"F16": (2e-3, 2e-3), "BF16": (1e-2, 1e-2)}, 2.0),
    "layer_norm": ({"F16": (5e-2, 5e-2), "BF16": (5e-2, 5e-2), "F32": (1e-3, 1e-3)}, 1.0),
    "rope": ({"F16": (1e-3, 1e-2), "BF16": (5e-3, 5e-2), "F32": (1e-4, 1e-3)}, 2.0),
    "causal_softmax": ({"F16": (1e-3, 1e-2), "BF16": (5e-3, 5e-2), "F32": (3e-5, 1e-5)}, 1.0),
    "softmax": ({"F16": (1e-3, 1e-2), "F32": (3e-5, 1e-5)}, 1.0),
    "log_softmax": ({"F16": (1e-3, 1e-2), "BF16": (5e-3, 1e-2), "F32": (1e-5, 1e-5)}, 12.0),
}


@pytest.mark.parametrize("name", sorted(UPSTREAM))
def test_tolerances_are_at_least_as_strict_as_upstreams(name: str) -> None:
    by_dtype, largest = UPSTREAM[name]
    for kind, (atol, rtol) in by_dtype.items():
        own_atol, own_rtol = _operator(name).tolerances.get(dtype(kind), (0.0, 0.0))
        for value in (0.0, largest):
            assert own_atol + own_rtol * value <= atol + rtol * value, f"{kind} at {value}"
