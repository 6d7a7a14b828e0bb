"""The elementwise operators: add, sub, mul, silu, gelu, sigmoid, relu. All follow one set of rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from infiniop.schema import (
    F16,
    F32,
    FLOATS64,
    I8,
    I32,
    I64,
    DType,
    ErrorSample,
    Operator,
    Role,
    Sample,
    Status,
    Tensor,
)
from infiniop.schema.samples import empty, padded, uniform

from . import _floats
from ._floats import f64, store, tolerances
from ._samples import WIDTHS, Errors, column_major, reversed_rows, special

RULES = (
    "All tensors have the same shape, of any rank; a broadcast operand is a tensor with stride 0.",
    "F16 and BF16 are computed in f32 and rounded to nearest even once.",
    "The output may be the memory of one of the inputs, with the same strides.",
    "Without elements nothing is touched.",
)


def layouts(inputs: int) -> Iterator[tuple[str, tuple[int, ...], list[Sequence[int] | None]]]:
    """Name, shape and the strides of the output and each input (None: row-major)."""
    rest = inputs - 1

    def case(name, shape, output, first, other=None):
        return name, shape, [output, first, *[other] * rest]

    yield case("13x4-rows", (13, 4), (10, 1), (10, 1), (10, 1))
    yield case("13x4-broadcast-column", (13, 4), None, (0, 1))
    yield case("13x4x4-padded", (13, 4, 4), (20, 4, 1), (20, 4, 1), (20, 4, 1))
    yield case("13x4x4-broadcasts", (13, 4, 4), None, (4, 0, 1), (0, 4, 1))
    yield case("13x16x2-broadcasts", (13, 16, 2), (64, 4, 1), (128, 4, 1), (0, 2, 1))
    yield case("4x5x17-one-value", (4, 5, 17), None, (0, 0, 0))
    yield case("33x31-transposed", (33, 31), None, column_major((33, 31)))
    yield case("33x31-transposed-output", (33, 31), column_major((33, 31)), None, None)
    yield case("9x65-reversed", (9, 65), None, reversed_rows((9, 65)), (65, -1))
    yield case("9x65-reversed-output", (9, 65), (-65, -1), None, (-65, -1))
    yield case("6x7x5-gaps-inside", (6, 7, 5), (140, 20, 3), (77, 11, 2), padded((6, 7, 5)))
    yield case("2x1x3x1x5", (2, 1, 3, 1, 5), (15, 99, 5, 7, 1), (15, 0, 5, -3, 1))
    yield case("3x3x13x9x17", (3, 3, 13, 9, 17), None, None)
    yield case("2x3x2x3x5-gaps", (2, 3, 2, 3, 5), (700, 200, 90, 8, 1), (300, 70, 33, 7, 1), (1, 2, 6, 12, 40))
    yield case("2x3x4x5x2x3", (2, 3, 4, 5, 2, 3), column_major((2, 3, 4, 5, 2, 3)), None)
    yield case("16x1409-rows", (16, 1409), (3328, 1), (3328, 1), (3328, 1))


def _values(rng: np.random.Generator, shape, dtype: DType, strides=None) -> np.ndarray:
    if dtype.is_float:
        return uniform(rng, shape, dtype, -8, 8, strides)
    limits = np.iinfo(dtype.numpy)  # type: ignore[arg-type]
    return uniform(rng, shape, dtype, limits.min, limits.max, strides)


def _dtype_samples(rng: np.random.Generator, dtype: DType, output: str, inputs: Sequence[str]) -> Iterator[Sample]:
    def sample(name, shape, strides=None, tags=()):
        strides = strides or [None] * (1 + len(inputs))
        tensors = {output: empty(shape, dtype, strides[0])}
        tensors |= {n: _values(rng, shape, dtype, s) for n, s in zip(inputs, strides[1:], strict=True)}
        return Sample(f"{dtype.name}-{name}", tensors, tags=frozenset(tags))

    for width in (*WIDTHS, 1023, 1025):
        yield sample(str(width), (width,))
    for name, shape, strides in layouts(len(inputs)):
        yield sample(name, shape, strides)
    yield sample("scalar", ())
    yield sample("empty", (0,))
    yield sample("empty-axis", (3, 0, 5))
    yield sample("4x33x257", (4, 33, 257))
    for changed in inputs:
        for shape, own in (((13, 4), None), ((7, 33), (50, 1)), ((5, 16, 3), (-48, 3, 1))):
            tensors = {n: _values(rng, shape, dtype, own if n == changed else None) for n in inputs}
            name = f"{dtype.name}-in-place-on-{changed}-{'x'.join(map(str, shape))}"
            yield Sample(name, {output: tensors[changed], **tensors})
    if len(inputs) == 2:
        same = _values(rng, (65,), dtype)
        yield Sample(f"{dtype.name}-one-array-twice", {output: empty((65,), dtype), inputs[0]: same, inputs[1]: same})


def _special_sample(dtype: DType, output: str, inputs: Sequence[str], extremes: bool) -> Sample:
    grid = np.meshgrid(*[special(dtype, extremes)] * len(inputs), indexing="ij")
    tensors = {output: empty(grid[0].shape, dtype), **dict(zip(inputs, grid, strict=True))}
    return Sample(f"{dtype.name}-special", tensors, tags=frozenset({"nan"}))


def family_samples(
    rng: np.random.Generator, dtypes: Sequence[DType], output: str, inputs: Sequence[str], extremes: bool = True
) -> Iterator[Sample]:
    """Samples of an elementwise operator; without `extremes`, none whose intermediate results leave f32's range."""
    for dtype in dtypes:
        yield from _dtype_samples(rng, dtype, output, inputs)
        if dtype.is_float:
            yield _special_sample(dtype, output, inputs, extremes)
    shape = (16, 5632)
    tensors = {n: _values(rng, shape, F32) for n in inputs}
    yield Sample("F32-16x5632", {output: empty(shape, F32), **tensors}, tags=frozenset({"large"}))


def family_errors(rng: np.random.Generator, output: str, inputs: Sequence[str]) -> Iterator[ErrorSample]:
    """Error samples of an elementwise operator."""
    error = Errors({output: empty((3, 4), F32), **{n: _values(rng, (3, 4), F32) for n in inputs}})
    yield from error.nulls()
    yield error("integers", Status.BAD_TENSOR_DTYPE, output, **{n: empty((3, 4), I8) for n in error.tensors})
    for name in inputs:
        yield error(f"{name}-dtype", Status.BAD_TENSOR_DTYPE, name, **{name: empty((3, 4), F16)})
        yield error(f"{name}-extent", Status.BAD_TENSOR_SHAPE, name, **{name: empty((3, 5), F32)})
        yield error(f"{name}-extent-1", Status.BAD_TENSOR_SHAPE, name, **{name: empty((3, 1), F32)})
        yield error(f"{name}-rank", Status.BAD_TENSOR_SHAPE, name, **{name: empty((4,), F32)})
    yield error("broadcast-output", Status.BAD_TENSOR_STRIDES, output, **{output: empty((3, 4), F32, (0, 1))})
    ones = {n: empty((1, 4), F32) for n in inputs}
    behind = {output: empty((1, 4), F32, (4, 0)), **ones}
    yield error("broadcast-output-behind-extent-1", Status.BAD_TENSOR_STRIDES, output, **behind)


def _operator(
    name: str,
    summary: str,
    formula: str,
    function: Callable[..., np.ndarray],
    tensors: str,
    dtypes: Sequence[DType] = FLOATS64,
    semantics: Sequence[str] = (),
    **more,
) -> Operator:
    """`tensors` names the output, then the inputs; `function` maps float64 (or integer) arrays to the result."""
    output, *inputs = tensors.split()

    def reference(**arrays: np.ndarray) -> None:
        if np.issubdtype(arrays[output].dtype, np.integer):
            arrays[output][...] = function(*(arrays[n] for n in inputs))
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                store(arrays[output], function(*(f64(arrays[n]) for n in inputs)))

    return Operator(
        name=name,
        symbol=name.capitalize(),
        summary=summary,
        axes={"shape": "any number of axes"},
        dtypes={"T": tuple(dtypes)},
        tensors=(
            Tensor(output, Role.OUT, "*shape", "T", doc="result"),
            *(Tensor(n, Role.IN, "*shape", "T", doc="operand") for n in inputs),
        ),
        aliases=tuple((output, n) for n in inputs),
        semantics=(formula, *semantics, *RULES),
        reference=reference,
        samples=lambda rng: family_samples(rng, dtypes, output, inputs),
        error_samples=lambda rng: family_errors(rng, output, inputs),
        **more,
    )


_erfc = np.frompyfunc(math.erfc, 1, 1)


def _gelu(x: np.ndarray) -> np.ndarray:
    """By erfc, which keeps its digits where 1 + erf loses them."""
    return 0.5 * x * np.asarray(_erfc(-x / math.sqrt(2.0)), np.float64)


# The f32 column is within upstream's 1e-7 + 1e-7·|y| where upstream tests (inputs in [0, 1)); two units in the last
# place elsewhere.
_EXP = tolerances(f32=(2.5e-8, 2e-7), f64=(1e-15, 1e-13))

add = _operator(
    "add", "Elementwise sum.", "c = a + b.", np.add, "c a b", (*FLOATS64, I32, I64),
    ["Integers wrap around (two's complement)."],
)  # fmt: skip
sub = _operator("sub", "Elementwise difference.", "c = a - b.", np.subtract, "c a b")
mul = _operator("mul", "Elementwise product.", "c = a * b.", np.multiply, "c a b")
silu = _operator(
    "silu", "Sigmoid linear unit.",
    "output = input / (1 + exp(-input)) (Elfwing, Uchibe, Doya 2017, arXiv:1702.03118).",
    _floats.silu, "output input", semantics=["Minus infinity gives NaN, as the formula does."], tolerances=_EXP,
)  # fmt: skip
gelu = _operator(
    "gelu", "Gaussian error linear unit, exact form.",
    "output = input / 2 * (1 + erf(input / sqrt(2))) (Hendrycks, Gimpel 2016, arXiv:1606.08415), not the tanh form.",
    _gelu, "output input",
    semantics=["Minus infinity gives NaN, as the formula does."],
    tolerances=tolerances(f32=(5e-7, 1e-6), f64=(1e-14, 1e-13)),
)  # fmt: skip
sigmoid = _operator(
    "sigmoid", "Logistic function.", "y = 1 / (1 + exp(-x)).", _floats.sigmoid, "y x", tolerances=_EXP,
)  # fmt: skip
relu = _operator(
    "relu", "Rectified linear unit.", "y = max(x, 0).", lambda x: np.maximum(x, 0.0), "y x",
    semantics=["NaN stays NaN."],
)  # fmt: skip
