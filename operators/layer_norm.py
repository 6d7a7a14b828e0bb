"""layer_norm: normalisation by mean and standard deviation over the last axis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import F16, F32, F64, FLOATS, Attr, DType, ErrorSample, Operator, Role, Sample, Status, Tensor
from infiniop.schema.samples import empty, padded, uniform

from ._floats import c_float, f64, store, tolerances
from ._samples import WIDTHS, Errors, column_major, reversed_rows


def reference(output, input_standardization, input_std_deviation, input, weight, bias, eps) -> None:
    if output.size == 0:
        return
    centred = f64(input)
    centred -= centred.mean(axis=-1, keepdims=True)
    deviation = np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + c_float(eps))
    with np.errstate(invalid="ignore", divide="ignore"):
        standardized = centred / deviation
    result = standardized * f64(weight) + (0.0 if bias is None else f64(bias))
    store(output, result)
    store(input_standardization, standardized)
    store(input_std_deviation, deviation[..., 0])


def complete(rng: np.random.Generator, sample: Sample) -> Sample | None:
    """Not without eps: rows of equal elements are then 0 / 0, or noise divided by noise."""
    return sample if sample.attrs["eps"] else None


def _arguments(rng, dtype: DType, shape, bias=True, output=None, standardization=None, deviation=None, input=None,
               weight=None, bias_stride=None, scale=1.0, offset=0.0):  # fmt: skip
    """The other keywords are strides, or a stride for weight and bias."""
    width = shape[-1:]
    return {
        "output": empty(shape, dtype, output),
        "input_standardization": empty(shape, dtype, standardization),
        "input_std_deviation": empty(shape[:-1], dtype, deviation),
        "input": uniform(rng, shape, dtype, offset - scale, offset + scale, input),
        "weight": uniform(rng, width, dtype, -2.0, 2.0, weight and (weight,)),
        "bias": uniform(rng, width, dtype, -1.0, 1.0, bias_stride and (bias_stride,)) if bias else None,
    }


def _dtype_samples(rng, dtype: DType) -> Iterator[Sample]:
    def sample(what, shape, eps=1e-5, in_place=False, **more):
        arguments = _arguments(rng, dtype, shape, **more)
        if in_place:
            arguments["output"] = arguments["input"]
        return Sample(f"{dtype.name}-{what}", arguments, {"eps": eps})

    for width in WIDTHS:
        yield sample(f"3x{width}", (3, width))
    for shape in [(5, 4), (5, 4, 7, 65), (13, 4, 4), (16, 5, 563), (4, 4, 563), (40, 1, 56), (0, 4), (2, 0, 4), (33,)]:
        yield sample("x".join(map(str, shape)), shape, eps=1e-4)
        yield sample(f"{'x'.join(map(str, shape))}-no-bias", shape, bias=False)
    yield sample("padded", (13, 4, 4), input=(30, 4, 1), output=(50, 4, 1), weight=2)
    yield sample("weight-stride-10", (5, 16, 63), weight=10, bias=False)
    yield sample("every-stride", (4, 3, 17), output=padded((4, 3, 17)), standardization=padded((4, 3, 17), 5),
                 deviation=(7, 2), input=(90, 30, 1), weight=3, bias_stride=-2)  # fmt: skip
    yield sample("columns", (9, 33), input=column_major((9, 33)), output=column_major((9, 33)))
    yield sample("reversed", (6, 40), input=reversed_rows((6, 40)), deviation=(-1,), standardization=(40, -1))
    yield sample("broadcast", (6, 40), input=(0, 1))
    yield sample("in-place", (9, 127), in_place=True)
    yield sample("in-place-strided", (3, 4, 40), in_place=True, input=(400, 50, 1))
    yield sample("large-mean", (4, 64), offset=64.0)
    yield sample("large-values", (4, 300), scale=3e4)
    yield sample("zeros", (5, 32), scale=0.0)
    yield sample("constant-rows", (5, 32), scale=0.0, offset=3.0)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in FLOATS:
        yield from _dtype_samples(rng, dtype)
    large = _arguments(rng, F32, (5, 4, 8, 2048))
    yield Sample("F32-5x4x8x2048", large, {"eps": 1e-5}, frozenset({"large"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    error = Errors(_arguments(rng, F32, (2, 3, 8)), {"eps": 1e-5})
    yield from error.nulls(optional=["bias"])
    doubles = {n: empty(t.shape, F64) for n, t in error.tensors.items()}
    yield error("f64", Status.BAD_TENSOR_DTYPE, "output", **doubles)
    for name, tensor in error.tensors.items():
        if name != "output":
            yield error(f"{name}-dtype", Status.BAD_TENSOR_DTYPE, name, **{name: empty(tensor.shape, F16)})
            yield error(f"{name}-extent", Status.BAD_TENSOR_SHAPE, name, **{name: empty((*tensor.shape[:-1], 5), F32)})
            yield error(f"{name}-rank", Status.BAD_TENSOR_SHAPE, name, **{name: empty((1, *tensor.shape), F32)})
    scalars = {n: empty((), F32) for n in ("output", "input_standardization", "input_std_deviation", "input")}
    yield error("rank-0", Status.BAD_TENSOR_SHAPE, "output", **scalars)
    for name in ("output", "input_standardization"):
        yield error(f"{name}-broadcast", Status.BAD_TENSOR_STRIDES, name, **{name: empty((2, 3, 8), F32, (24, 0, 1))})
    broadcast = empty((2, 3), F32, (0, 1))
    yield error("deviation-broadcast", Status.BAD_TENSOR_STRIDES, "input_std_deviation", input_std_deviation=broadcast)


layer_norm = Operator(
    name="layer_norm",
    symbol="LayerNorm",
    summary="Normalisation by mean and standard deviation over the last axis, times a weight, plus a bias.",
    axes={"batch": "any number of leading axes", "d": "normalised width"},
    dtypes={"T": FLOATS},
    tensors=(
        Tensor("output", Role.OUT, "*batch d", "T", doc="result"),
        Tensor("input_standardization", Role.OUT, "*batch d", "T", doc="(input - mean) / deviation"),
        Tensor("input_std_deviation", Role.OUT, "*batch", "T", doc="the divisor sqrt(variance + eps), not its inverse"),
        Tensor("input", Role.IN, "*batch d", "T", doc="activations"),
        Tensor("weight", Role.IN, "d", "T", doc="weight"),
        Tensor("bias", Role.IN, "d", "T", doc="bias; none counts as zeros", optional=True),
    ),
    attrs=(Attr("eps", "float", default=1e-5, doc="added to the variance; not validated"),),
    aliases=(("output", "input"),),
    semantics=(
        "deviation = sqrt(mean((input - mean(input))^2) + eps), the biased variance; standardization = (input - "
        "mean(input)) / deviation; output = standardization * weight + bias (Ba et al. 2016, arXiv:1607.06450).",
        "The variance is taken from the differences to the mean (two passes), not as mean(x^2) - mean(x)^2.",
        "Computed in f32; each output is rounded once, output from the unrounded standardization.",
        "All three outputs are always written; output may be input, with the same strides.",
        "Without elements nothing is touched.",
    ),
    tolerances=tolerances(f32=(5e-5, 5e-5), half_atol=1e-4),
    reference=reference,
    complete=complete,
    samples=samples,
    error_samples=error_samples,
)
