"""The doors: every kind of array gives the same values and gets its own kind back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import infiniop
from infiniop import errors, ops

torch = pytest.importorskip("torch")


class Foreign:
    """An array of a library that nobody here knows: DLPack and nothing else."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def __dlpack__(self, **arguments: object) -> object:
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


KINDS = {"tensor": infiniop.from_numpy, "numpy": lambda a: a, "torch": torch.from_numpy, "dlpack": Foreign}


def inputs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((5, 8)).astype(np.float32), rng.standard_normal((5, 8)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_out_is_written_and_returned(kind: str) -> None:
    a, b = inputs()
    out = np.zeros_like(a)
    given = KINDS[kind](out)
    for _ in range(3):  # the first call makes the descriptor, the next ones take the short way
        out[:] = 0
        assert ops.add(KINDS[kind](a), KINDS[kind](b), out=given) is given
        assert np.array_equal(out, a + b)


@pytest.mark.parametrize("kind", KINDS)
def test_new_outputs_have_the_kind_that_came_in(kind: str) -> None:
    a, b = inputs()
    for _ in range(2):
        made = ops.add(KINDS[kind](a), KINDS[kind](b))
        assert type(made) is (infiniop.Tensor if kind == "dlpack" else type(KINDS[kind](a)))
        assert np.array_equal(np.asarray(made), a + b)


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_operators_return_what_they_changed(kind: str) -> None:
    k_cache, v_cache = np.zeros((2, 1, 4, 8), np.float32), np.zeros((2, 1, 4, 8), np.float32)
    k = np.ones((3, 1, 8), np.float32)
    arrays = [KINDS[kind](a) for a in (k_cache, v_cache, k, 2 * k, np.array([0, 5, -1]))]
    changed = ops.paged_caching(*arrays)
    assert changed[0] is arrays[0] and changed[1] is arrays[1]
    assert k_cache.sum() == 16 and (k_cache[1, 0, 1] == 1).all() and (v_cache[0, 0, 0] == 2).all()


def test_kinds_mix() -> None:
    a, b = inputs()
    out = np.zeros_like(a)
    assert ops.add(infiniop.from_numpy(a), torch.from_numpy(b), out=out) is out
    assert np.array_equal(out, a + b)
    made = ops.add(torch.from_numpy(a), b)
    assert isinstance(made, torch.Tensor) and np.array_equal(made.numpy(), a + b)


def test_strided_arrays_of_every_kind() -> None:
    base = np.arange(64, dtype=np.float32).reshape(8, 8)
    for view in (base[::2, ::-1], base.T, base[3:, 2:5]):
        expected = view + view
        assert np.array_equal(ops.add(view, view), expected)
        assert np.array_equal(ops.add(infiniop.from_numpy(view), infiniop.from_numpy(view)).numpy(), expected)
    part = torch.from_numpy(base).t()[1:]
    assert torch.equal(ops.add(part, part), part + part)
    out = np.zeros((8, 16), np.float32)
    ops.add(base, base, out=out[:, ::2])
    assert np.array_equal(out[:, ::2], base + base) and not out[:, 1::2].any()


def test_half_precision_through_every_door() -> None:
    a = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    assert ops.add(a, a).tolist() == [3.0, -4.0] and ops.add(a, a).dtype == a.dtype
    t = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    assert ops.add(t, t).dtype is torch.bfloat16 and ops.add(t, t).tolist() == [3.0, -4.0]
    assert ops.add(infiniop.from_numpy(a), infiniop.from_numpy(a)).dtype is infiniop.bfloat16


def test_several_outputs() -> None:
    a, b = inputs()
    weight = np.ones(8, np.float32)
    y, residual = ops.add_rms_norm(a, b, weight, epsilon=1e-5)
    assert np.array_equal(residual, a + b) and y.shape == a.shape
    given = np.zeros_like(a), np.zeros_like(a)
    result = ops.add_rms_norm(a, b, weight, epsilon=1e-5, out=given)
    assert result[0] is given[0] and result[1] is given[1] and np.array_equal(given[0], y)
    half = ops.add_rms_norm(a, b, weight, epsilon=1e-5, out=(None, given[1]))
    assert half[1] is given[1] and np.array_equal(half[0], y)


def test_outputs_by_inference() -> None:
    a = np.ones((2, 3), np.float32)
    b = np.ones((3, 5), np.float32)
    assert ops.gemm(a, b).shape == (2, 5)
    assert ops.gemm(a[None].repeat(4, 0), b).shape == (4, 2, 5)
    assert ops.linear(a, np.ones((7, 3), np.float32)).shape == (2, 7)
    assert ops.silu_and_mul(np.ones((2, 6), np.float32)).shape == (2, 3)
    assert ops.embedding(np.array([0, 1, 1]), a).shape == (3, 3)


def test_read_only_outputs_and_foreign_things_are_refused() -> None:
    a, b = inputs()
    frozen = np.zeros_like(a)
    frozen.flags.writeable = False
    for _ in range(2):
        with pytest.raises(errors.BadParamError, match="read-only") as caught:
            ops.add(a, b, out=frozen)
        assert caught.value.argument == "c" and caught.value.op == "add"
    assert np.array_equal(ops.add(frozen, b), b)
    with pytest.raises(TypeError, match="no array"):
        ops.add([1.0], b)
    with pytest.raises(errors.NullPointerError):
        ops.add(None, b)  # type: ignore[type-var]
    with pytest.raises(errors.TensorDtypeError):
        ops.add(a.astype(object), b)
    with pytest.raises(errors.TensorDtypeError, match="not one of"):
        ops.add(torch.zeros(2, dtype=torch.float8_e5m2), b)
    with pytest.raises(errors.BadParamError, match="meta"):
        ops.add(torch.zeros(5, 8, device="meta"), torch.zeros(5, 8, device="meta"))


def test_arguments_that_contradict_the_schema() -> None:
    a, b = inputs()
    with pytest.raises(errors.TensorShapeError) as shape:
        ops.add(a, b[:3], out=np.zeros_like(a))
    assert shape.value.argument == "b" and isinstance(shape.value, ValueError)
    with pytest.raises(errors.TensorDtypeError) as dtype:
        ops.add(a, b.astype(np.float16), out=np.zeros_like(a))
    assert dtype.value.argument == "b" and isinstance(dtype.value, TypeError)
    with pytest.raises(errors.BadParamError):
        ops.rope(np.zeros((2, 2, 8), np.float32), np.arange(2), *[np.zeros((4, 4), np.float32)] * 2, algo="SPIRAL")
    with pytest.raises(errors.InfiniopError):
        ops.add(a, b, backend="nobody")


def test_options_by_name_or_number() -> None:
    x = np.random.default_rng(0).standard_normal((2, 2, 8)).astype(np.float32)
    sin, cos = np.sin(np.ones((4, 4), np.float32)), np.cos(np.ones((4, 4), np.float32))
    positions = np.arange(2, dtype=np.int32)
    for number, name in enumerate(("GPT_J", "GPT_NEOX")):
        by_name = ops.rope(x, positions, sin, cos, algo=name)
        assert np.array_equal(by_name, ops.rope(x, positions, sin, cos, algo=number))
