"""Errors carry status, operator, argument, expected and got."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import infiniop
from infiniop import errors, ops
from infiniop.schema import Status


def test_one_class_per_status() -> None:
    for status in Status:
        if status is not Status.SUCCESS:
            assert errors.error_class(status).status is status
    assert errors.error_class(99) is errors.InfiniopError


def test_fields_of_a_shape_error() -> None:
    cache = np.zeros((2, 2, 4, 8), np.float32)
    with pytest.raises(errors.TensorShapeError) as caught:
        ops.paged_caching(
            cache, cache.copy(), np.zeros((3, 2, 8), np.float32), np.zeros((3, 1, 8), np.float32), np.arange(3)
        )
    error = caught.value
    assert (error.status, error.op, error.argument) == (Status.BAD_TENSOR_SHAPE, "paged_caching", "v")
    assert "3" in error.got and error.expected and "v" in str(error)


def test_fields_of_a_value_error() -> None:
    for backend in ("cpu", "reference"):
        cache = np.zeros((2, 2, 4, 8), np.float32)
        with pytest.raises(errors.BadParamError) as caught:
            ops.paged_caching(
                cache, cache.copy(), *[np.ones((3, 2, 8), np.float32)] * 2, np.array([0, 8, 1]), backend=backend
            )
        assert caught.value.argument == "slot_mapping" and "8 at [1]" in caught.value.got
        assert not cache.any(), "something was written before the values were checked"


def test_they_travel_between_processes() -> None:
    error = errors.TensorShapeError(op="add", argument="a", expected="[2]", got="[3]")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.TensorShapeError and str(again) == str(error) and again.got == "[3]"
    assert again.status is Status.BAD_TENSOR_SHAPE and "add: a: expected [2], got [3]" in str(again)


def test_they_are_also_pythons_own() -> None:
    assert issubclass(errors.BadParamError, ValueError) and issubclass(errors.TensorShapeError, ValueError)
    assert issubclass(errors.TensorDtypeError, TypeError) and issubclass(errors.TensorStridesError, ValueError)
    assert all(issubclass(c, RuntimeError) for c in errors.InfiniopError.__subclasses__())


def test_a_device_without_a_backend_says_who_is_there() -> None:
    import infiniop

    with pytest.raises(errors.InfiniopError) as caught:
        infiniop.zeros(3, device="ascend")
    assert "ascend" in str(caught.value)


X, W = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("call", "argument", "expected", "got"),
    [
        (lambda: ops.rms_norm(X, W, epsilon="1e-6"), "epsilon", "a number", "'1e-6'"),
        (lambda: ops.rms_norm(X, W, epsilon=None), "epsilon", "a number", "None"),
        (lambda: ops.rms_norm(X, W, epsilon=[1e-6]), "epsilon", "a number", "[1e-06]"),
        (lambda: ops.rms_norm(X, W, epsilon=10**400), "epsilon", "a number", "1000"),
        (lambda: ops.gemm(X, X.T.copy(), alpha="2"), "alpha", "a number", "'2'"),
        (lambda: ops.gemm(X, X.T.copy(), beta=None, out=np.ones((3, 3), np.float32)), "beta", "a number", "None"),
        (lambda: ops.softmax(X, axis=1.0), "axis", "an integer", "1.0"),
        (lambda: ops.softmax(X, axis=None), "axis", "an integer", "None"),
        (lambda: ops.topk(X, k=1, dim=0, largest="no"), "largest", "True or False", "'no'"),
        (lambda: ops.topk(X, k=1, dim=0, out=X), "out", "a tuple of 2 outputs", "array"),
        (lambda: ops.topk(X, k=1, dim=0, out=3), "out", "a tuple of 2 outputs", "3"),
        (lambda: ops.add([1.0], X), "a", "an infiniop.Tensor, a NumPy", "a list, which is no array"),
        (lambda: ops.add(X, np.float32(1)), "b", "an infiniop.Tensor, a NumPy", "a float32, which is no array"),
        (lambda: infiniop.descriptor("add", c=X, a=X, b=[1]), "b", "an infiniop.Tensor", "a list, which is no array"),
        (lambda: ops.add(X, X, backend=3), "backend", "the name of a backend", "3"),
    ],
)  # fmt: skip
def test_arguments_of_a_wrong_type_are_named(call, argument, expected, got) -> None:
    for _ in range(2):  # nothing of the first is kept
        with pytest.raises(errors.ArgumentTypeError) as caught:
            call()
        assert isinstance(caught.value, TypeError) and caught.value.status is Status.BAD_PARAM
        assert caught.value.argument == argument and got in str(caught.value) and len(str(caught.value)) < 300
        assert expected in str(caught.value)


def test_what_contradicts_is_printed() -> None:
    with pytest.raises(errors.BadParamError, match=r"an axis of x, got axis = 5, axes of shape = 2"):
        ops.softmax(X, axis=5)
    with pytest.raises(errors.BadParamError, match=r"an axis of input, got dim = 5, input = \[3, 4\]"):
        ops.topk(X, k=1, dim=5)
    with pytest.raises(errors.TensorShapeError, match=r"rank 1 does not fit \[\*shape\], where shape is \[3, 4\]"):
        ops.add(X, W)


@pytest.mark.parametrize("make", [np.ones, infiniop.zeros])
def test_an_output_that_is_read_must_be_given(make) -> None:
    a, b = make((3, 4)), make((4, 3))
    a, b = (t.astype(np.float32) if isinstance(t, np.ndarray) else t for t in (a, b))
    with pytest.raises(errors.BadParamError, match="gemm: c: expected an array to read, as out=, since beta != 0"):
        ops.gemm(a, b, beta=0.5)
    ops.gemm(a, b, beta=0)


def test_new_outputs_hold_nothing_that_was_there_before() -> None:
    """Where an operator leaves rows as they are, new arrays hold zeros."""
    for _ in range(20):
        np.full((50, 4), 7, np.float32)  # memory that is likely handed out again
        assert not ops.embedding(np.full(50, 99), X).any()
        assert not ops.embedding(infiniop.asarray(np.full(50, 99)), infiniop.asarray(X)).numpy().any()


@given(st.data())
def test_outputs_that_overlap_an_input_are_refused(data) -> None:
    """Of dense rows: any overlap but exactly in place. NumPy says what overlaps."""
    memory = np.arange(64, dtype=np.float32)
    length = data.draw(st.integers(1, 20))

    def row():
        begin = data.draw(st.integers(0, 64 - length))
        part = memory[begin : begin + length]
        return part[::-1] if data.draw(st.booleans()) else part

    a, b, out = row(), row(), row()
    expected = a + b

    def in_place(x):
        same = x.ctypes.data == out.ctypes.data
        return same and (x.strides == out.strides or length == 1)

    if all(in_place(x) or not np.shares_memory(x, out) for x in (a, b)):
        assert np.array_equal(ops.add(a, b, out=out), expected)
    else:
        before = memory.copy()
        with pytest.raises(errors.BadParamError, match=r"memory that overlaps|the same pointer"):
            ops.add(a, b, out=out)
        assert np.array_equal(memory, before)


def test_columns_of_one_matrix_are_no_overlap() -> None:
    memory = np.arange(100, dtype=np.float32).reshape(10, 10)
    expected = memory[:, :4] + memory[:, 4:8]
    assert np.array_equal(ops.add(memory[:, :4], memory[:, 4:8], out=memory[:, 4:8]), expected)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(-9, 9)), min_size=1, max_size=2))
def test_an_output_has_a_place_for_each_element(axes) -> None:
    shape, strides = zip(*axes, strict=True)
    places = np.zeros(shape, np.int64)
    for i, s in enumerate(strides):
        places += s * np.arange(shape[i]).reshape([-1 if j == i else 1 for j in range(len(shape))])
    memory = np.zeros(200, np.float32)
    out = np.lib.stride_tricks.as_strided(memory[100:], shape, [4 * s for s in strides])
    one = np.ones(shape, np.float32)
    if len(np.unique(places)) == places.size:
        assert (ops.add(one, one, out=out) == 2).all()
    else:
        with pytest.raises(errors.TensorStridesError, match=r"no stride of 0|a place of its own"):
            ops.add(one, one, out=out)
