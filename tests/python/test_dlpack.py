"""DLPack both ways: values, lifetimes, read-only memory, versions."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import infiniop
from infiniop import dlpack

torch = pytest.importorskip("torch")

DTYPES = [torch.bool, torch.int8, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_lends_and_borrows(dtype: torch.dtype) -> None:
    theirs = torch.arange(12).reshape(3, 4).to(dtype)[:, 1:].t()
    ours = infiniop.from_dlpack(theirs)
    assert ours.shape == (3, 3) and ours.strides == theirs.stride() and ours.data_ptr == theirs.data_ptr()
    back = torch.from_dlpack(ours)
    assert back.data_ptr() == theirs.data_ptr() and torch.equal(back, theirs) and back.dtype is dtype


def test_numpy_borrows() -> None:
    ours = infiniop.asarray(np.arange(6, dtype=np.int32).reshape(2, 3))[:, ::-1]
    array = np.from_dlpack(ours)
    assert array.tolist() == [[2, 1, 0], [5, 4, 3]] and array.ctypes.data == ours.data_ptr


def test_lent_memory_outlives_the_tensor() -> None:
    tensor = infiniop.zeros((2, 2), infiniop.float32)
    storage = weakref.ref(tensor._owner)
    borrowed = torch.from_dlpack(tensor)
    del tensor
    gc.collect()
    assert storage() is not None
    borrowed += 1
    assert borrowed.sum() == 4
    del borrowed
    gc.collect()
    assert storage() is None


def test_borrowed_memory_is_given_back() -> None:
    theirs = np.ones(4, np.float32)
    owner = weakref.ref(theirs)
    ours = infiniop.from_dlpack(theirs)[1:]
    del theirs
    gc.collect()
    assert owner() is not None and ours.tolist() == [1, 1, 1]
    del ours
    gc.collect()
    assert owner() is None


def test_a_capsule_that_nobody_takes() -> None:
    tensor = infiniop.zeros(8)
    before = len(dlpack._lent)
    for version in (None, (1, 0)):
        capsule = tensor.__dlpack__(max_version=version)
        assert len(dlpack._lent) == before + 1
        del capsule
        gc.collect()
        assert len(dlpack._lent) == before


def test_a_capsule_is_taken_once() -> None:
    capsule = infiniop.zeros(8).__dlpack__()
    dlpack.from_capsule(capsule, infiniop.Device("cpu"))
    with pytest.raises(TypeError, match="consumed"):
        dlpack.from_capsule(capsule, infiniop.Device("cpu"))


def test_read_only_memory_needs_the_versioned_protocol() -> None:
    array = np.zeros(4, np.float32)
    array.flags.writeable = False
    ours = infiniop.from_numpy(array)
    with pytest.raises(BufferError, match="read-only"):
        ours.__dlpack__()
    again = infiniop.from_dlpack(ours)
    assert again.readonly
    assert infiniop.from_dlpack(np.ones(4, np.float32)).readonly is False


def test_copies_and_devices_on_request() -> None:
    ours = infiniop.asarray(np.arange(4, dtype=np.float32))
    device = infiniop.Device("cpu")
    copied = dlpack.from_capsule(ours.__dlpack__(copy=True), device)
    assert copied.data_ptr != ours.data_ptr and copied.tolist() == ours.tolist()
    same = dlpack.from_capsule(ours.__dlpack__(dl_device=(1, 0), max_version=(1, 1)), device)
    assert same.data_ptr == ours.data_ptr
    with pytest.raises(BufferError):
        ours.__dlpack__(dl_device=(4, 0))
    assert ours.__dlpack_device__() == (1, 0)


def test_scalars_and_empty_tensors() -> None:
    assert torch.from_dlpack(infiniop.asarray(np.float32(3))).item() == 3
    empty = torch.from_dlpack(infiniop.zeros((0, 3)))
    assert tuple(empty.shape) == (0, 3)
    assert infiniop.from_dlpack(torch.zeros(2, 0)).shape == (2, 0)


def test_what_is_no_array() -> None:
    with pytest.raises(TypeError):
        infiniop.from_dlpack(3)
    with pytest.raises(infiniop.errors.TensorDtypeError):
        infiniop.from_dlpack(torch.zeros(2, dtype=torch.float8_e5m2))
