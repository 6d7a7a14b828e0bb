"""rearrange: copy between two strided layouts of one shape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from infiniop.schema import ALL, F16, F32, I32, U8, DType, ErrorSample, Operator, Role, Sample, Status, Tensor
from infiniop.schema.samples import empty, layout, padded

from ._samples import Errors, column_major, reversed_rows


def reference(dst, src) -> None:
    dst[...] = src


def _arguments(rng, dtype: DType, shape, strides=None, src_strides=None):
    """Random bytes: the copy is of bits, whatever they mean."""
    src = layout(shape, src_strides, dtype)
    count = tuple(min(n, 1) if s == 0 else n for n, s in zip(shape, src_strides or [1] * len(shape), strict=True))
    size = int(np.prod(count, dtype=np.int64)) * dtype.itemsize
    values = rng.integers(0, 2 if dtype.name == "BOOL" else 256, size, dtype=np.uint8)
    if values.size:
        src[tuple(slice(0, n) for n in count)] = values.view(dtype.numpy).reshape(count)
    return {"dst": empty(shape, dtype, strides), "src": src}


def compare(expected, actual, inputs, attrs) -> str | None:
    """NaNs and signed zeros count as the bits that they are."""
    size = expected["dst"].dtype.itemsize
    bits = [np.ascontiguousarray(arrays["dst"]).view(np.uint8).reshape(-1, size) for arrays in (expected, actual)]
    wrong = np.flatnonzero((bits[0] != bits[1]).any(axis=1))
    return f"dst: {len(wrong)} elements are not a copy, the first at flat index {wrong[0]}" if len(wrong) else None


_LAYOUTS: tuple[tuple[str, tuple[int, ...], tuple[int, ...] | None, tuple[int, ...] | None], ...] = (
    ("contiguous", (7, 33, 5), None, None),
    ("transpose-100", (100, 100), (1, 100), None),
    ("transpose-4", (4, 4), None, (1, 4)),
    ("transpose-257x255", (257, 255), (255, 1), (1, 257)),
    ("swap-axes", (4, 6, 64), None, (64, 256, 1)),
    ("2x2x2x4", (2, 2, 2, 4), (16, 8, 4, 1), (16, 8, 1, 2)),
    ("to-column-major", (3, 4, 7, 53, 9), column_major((3, 4, 7, 53, 9)), None),
    ("from-column-major", (3, 4, 5, 17, 5, 7), None, column_major((3, 4, 5, 17, 5, 7))),
    ("broadcast-rows", (15, 1075), None, (0, 1)),
    ("broadcast-columns", (15, 65), None, (1, 0)),
    ("broadcast-all", (3, 5, 7), padded((3, 5, 7)), (0, 0, 0)),
    ("six-axes", (2, 2, 2, 2, 2, 2), (4, 8, 16, 32, 64, 128), (128, 64, 32, 16, 8, 4)),
    ("cache", (4, 4, 20, 64), None, (5120, 64, 256, 1)),
    ("to-cache", (3, 4, 5, 64), (32768, 8192, 64, 1), (1280, 64, 256, 1)),
    ("gaps", (9, 17), (40, 2), (-51, 3)),
    ("reversed", (9, 17), None, reversed_rows((9, 17))),
    ("reversed-both", (9, 17), (-17, -1), (1, -9)),
    ("extent-1", (1, 6, 1, 9), (7, 9, 5, 1), (0, 1, 99, 6)),
    ("eight-axes", (2, 1, 3, 2, 1, 2, 3, 2), None, column_major((2, 1, 3, 2, 1, 2, 3, 2))),
    ("scalar", (), (), ()),
    ("one", (1,), (5,), (0,)),
    ("empty", (0,), None, None),
    ("empty-axis", (3, 0, 5), (1, 3, 3), (5, 5, 1)),
)


def samples(rng: np.random.Generator) -> Iterator[Sample]:
    for dtype in ALL:
        for name, shape, strides, src_strides in _LAYOUTS if dtype.numpy is not None else ():
            yield Sample(f"{dtype.name}-{name}", _arguments(rng, dtype, shape, strides, src_strides))
    far = 2**31 + 3
    for name, strides, src_strides in (("to", (far, 1), None), ("from", (5, 1), (far, 1))):
        yield Sample(
            f"U8-{name}-2-GiB-away", _arguments(rng, U8, (2, 5), strides, src_strides), tags=frozenset({"large"})
        )
    for dtype in (U8, F16, F32):
        arguments = _arguments(rng, dtype, (1001, 1001), None, (1, 1001))
        yield Sample(f"{dtype.name}-transpose-1001", arguments, tags=frozenset({"large"}))


def error_samples(rng: np.random.Generator) -> Iterator[ErrorSample]:
    error = Errors(_arguments(rng, F32, (3, 4)))
    yield from error.nulls()
    yield error("dtype", Status.BAD_TENSOR_DTYPE, "src", src=empty((3, 4), F16))
    yield error("dtype-of-same-size", Status.BAD_TENSOR_DTYPE, "src", src=empty((3, 4), I32))
    yield error("extent", Status.BAD_TENSOR_SHAPE, "src", src=empty((3, 5), F32))
    yield error("broadcast-by-extent", Status.BAD_TENSOR_SHAPE, "src", src=empty((1, 4), F32))
    yield error("rank", Status.BAD_TENSOR_SHAPE, "src", src=empty((12,), F32))
    yield error("broadcast-output", Status.BAD_TENSOR_STRIDES, "dst", dst=empty((3, 4), F32, (0, 1)))
    yield error("broadcast-output-last", Status.BAD_TENSOR_STRIDES, "dst", dst=empty((3, 4), F32, (1, 0)))


rearrange = Operator(
    name="rearrange",
    symbol="Rearrange",
    summary="Copy a tensor into another layout of the same shape.",
    axes={"shape": "any number of axes"},
    dtypes={"T": ALL},
    tensors=(
        Tensor("dst", Role.OUT, "*shape", "T", doc="result"),
        Tensor("src", Role.IN, "*shape", "T", doc="source; stride 0 broadcasts"),
    ),
    workspace=False,
    compare=compare,
    semantics=(
        "dst[i] = src[i] for every index, bit by bit.",
        "dst and src must not overlap.",
        "Without elements nothing is touched.",
    ),
    reference=reference,
    samples=samples,
    error_samples=error_samples,
)
