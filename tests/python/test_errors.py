"""Errors carry status, operator, argument, expected and got."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

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
