"""Tensor against NumPy: views, copies, conversions, lifetimes."""

from __future__ import annotations

import gc
import math
import re
from pathlib import Path

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

import infiniop
from infiniop import Tensor, errors

SHAPES = st.lists(st.integers(0, 5), min_size=0, max_size=4)


def pair(shape: list[int], dtype: object = np.int32) -> tuple[Tensor, np.ndarray]:
    array = np.arange(math.prod(shape)).astype(dtype).reshape(shape)
    return infiniop.from_numpy(array), array


def same(tensor: Tensor, array: np.ndarray) -> None:
    assert tensor.shape == array.shape
    assert np.array_equal(tensor.numpy(), array)
    assert tensor.is_contiguous() == (array.flags.c_contiguous or array.size == 0)
    assert tensor.nbytes == array.nbytes and tensor.numel() == array.size


@st.composite
def indices(draw: st.DrawFn, shape: list[int]) -> tuple:
    keys: list[object] = []
    for n in shape[: draw(st.integers(0, len(shape)))]:
        step = draw(st.sampled_from([None, 1, 2, -1, -2, 3]))
        bound = st.one_of(st.none(), st.integers(-n - 1, n + 1))
        cut = slice(draw(bound), draw(bound), step)
        keys.append(draw(st.sampled_from([cut, draw(st.integers(-n, n - 1))] if n else [cut])))
        if draw(st.booleans()):
            keys.append(None)
    if draw(st.booleans()):
        keys.append(Ellipsis)
    return tuple(keys)


@given(st.data(), SHAPES)
def test_indexing_is_numpys(data: st.DataObject, shape: list[int]) -> None:
    tensor, array = pair(shape)
    key = data.draw(indices(shape))
    same(tensor[key], np.asarray(array[key]))
    assert np.array_equal(tensor[key].contiguous().numpy(), np.asarray(array[key]))


@given(st.data(), SHAPES)
def test_permute_transpose_and_axes(data: st.DataObject, shape: list[int]) -> None:
    tensor, array = pair(shape)
    order = data.draw(st.permutations(range(len(shape))))
    same(tensor.permute(order), array.transpose(order))
    axis = data.draw(st.integers(-len(shape) - 1, len(shape)))
    same(tensor.unsqueeze(axis), np.expand_dims(array, axis))
    same(tensor.unsqueeze(axis).squeeze(axis), array)
    same(tensor.squeeze(), array.squeeze())
    if len(shape) > 1:
        same(tensor.transpose(0, -1), array.swapaxes(0, -1))


@given(st.data(), st.lists(st.integers(1, 4), min_size=0, max_size=4))
def test_reshape_is_numpys_and_a_view_where_possible(data: st.DataObject, shape: list[int]) -> None:
    tensor, array = pair(shape)
    order = data.draw(st.permutations(range(len(shape))))
    tensor, array = tensor.permute(order), array.transpose(order)
    rest, wanted = array.size, []
    while rest > 1 and data.draw(st.booleans()):
        factor = data.draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0]))
        wanted.append(factor)
        rest //= factor
    wanted.append(rest)
    same(tensor.reshape(wanted), array.reshape(wanted))
    shared = np.shares_memory(array, array.reshape(wanted))
    if shared or array.size < 2:
        same(tensor.view(wanted), array.reshape(wanted))
    else:
        with pytest.raises(errors.TensorStridesError):
            tensor.view(wanted)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 3))
def test_expand(shape: list[int], repeats: int) -> None:
    tensor, array = pair([1, *shape[1:]])
    wanted = (repeats, 3, *shape[1:])
    same(tensor.expand(wanted), np.broadcast_to(array, wanted))


def test_minus_one_in_a_shape() -> None:
    tensor, array = pair([4, 6])
    same(tensor.reshape(3, -1), array.reshape(3, -1))
    same(tensor.view((-1,)), array.reshape(-1))
    with pytest.raises(errors.TensorShapeError):
        tensor.reshape(5, -1)


def test_views_share_memory_and_keep_it() -> None:
    tensor = infiniop.zeros((4, 4), infiniop.int32)
    row = tensor[2]
    row.copy_(infiniop.asarray(np.arange(4, dtype=np.int32)))
    assert tensor.tolist()[2] == [0, 1, 2, 3]
    array = row.numpy()
    del tensor, row
    gc.collect()
    for _ in range(50):
        infiniop.empty((4, 4), infiniop.int32).copy_(np.full((4, 4), 7, np.int32))
    assert array.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "kind",
    [np.bool_, np.int8, np.uint16, np.int64, np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn],
)
def test_numpy_round_trip_without_a_copy(kind: type) -> None:
    array = np.arange(12).reshape(3, 4).astype(kind)
    for view in (array, array[::-1], array.T, array[:, 1:3], array[1:1]):
        tensor = infiniop.from_numpy(view)
        back = tensor.numpy()
        assert back.dtype == view.dtype and back.shape == view.shape
        assert np.array_equal(back, view)
        assert view.size == 0 or np.shares_memory(back, array)


def test_read_only_memory_stays_read_only() -> None:
    array = np.zeros(4, np.float32)
    array.flags.writeable = False
    tensor = infiniop.from_numpy(array)
    assert tensor.readonly and not tensor.numpy().flags.writeable
    with pytest.raises(errors.BadParamError, match="read-only"):
        tensor.copy_(np.ones(4, np.float32))
    with pytest.raises(errors.BadParamError, match="read-only"):
        infiniop.ops.add(infiniop.zeros(4), infiniop.zeros(4), out=tensor)


def test_items_and_text() -> None:
    tensor = infiniop.asarray([[1.5, 2.0]], dtype="bfloat16")
    assert tensor.dtype is infiniop.bfloat16 and tensor.tolist() == [[1.5, 2.0]]
    assert tensor[0, 1].item() == 2.0 and isinstance(tensor[0, 1].item(), float)
    assert infiniop.asarray(np.int64(7)).item() == 7
    assert "bfloat16" in repr(tensor) and "1.5" in repr(tensor)
    assert len(tensor) == 1 and [row.shape for row in tensor] == [(2,)]
    with pytest.raises(errors.TensorShapeError):
        tensor.item()
    with pytest.raises(TypeError):
        len(tensor[0, 0])


def test_what_cannot_be_indexed() -> None:
    tensor, _ = pair([2, 3])
    with pytest.raises(IndexError):
        tensor[2]
    with pytest.raises(IndexError):
        tensor[0, 0, 0]
    with pytest.raises(TypeError):
        tensor["a"]
    for mask in ([0, 1], np.array([0, 1]), True, np.True_, 1.0):
        with pytest.raises(TypeError, match="not an index"):
            tensor[mask]


def test_as_strided_stays_inside() -> None:
    tensor, array = pair([4, 4])
    same(tensor.as_strided((2, 2), (4, 1), 5), array[1:3, 1:3])
    with pytest.raises(errors.TensorShapeError):
        tensor.as_strided((2, 2), (4, 1), 12)
    with pytest.raises(errors.TensorShapeError):
        tensor.as_strided((2,), (-1,), 0)
    with pytest.raises(errors.TensorShapeError, match="expected 2 strides, got 1"):
        tensor.as_strided((2, 2), (1,))


def test_foreign_byte_order_and_objects_are_refused() -> None:
    with pytest.raises(errors.TensorDtypeError):
        infiniop.from_numpy(np.zeros(3, ">f4"))
    with pytest.raises(errors.TensorDtypeError):
        infiniop.from_numpy(np.zeros(3, object))
    with pytest.raises(TypeError):
        infiniop.from_numpy([1, 2])  # type: ignore[arg-type]


def test_allocation_that_cannot_be_served() -> None:
    with pytest.raises(errors.InternalError, match="bytes"):
        infiniop.empty(1 << 60, infiniop.uint8)
    with pytest.raises(errors.TensorShapeError):
        infiniop.empty((-1, 2))
    for shape in ((2.5,), "12", None):
        with pytest.raises(TypeError, match="expected integers"):
            infiniop.empty(shape)
    with pytest.raises(TypeError, match="expected integers"):
        infiniop.zeros(6).reshape(2.0, 3)
    assert infiniop.zeros((np.int64(2), 3)).reshape(np.int32(3), -1).shape == (3, 2)


def test_devices_have_names_numbers_and_torch_devices() -> None:
    torch = pytest.importorskip("torch")
    assert infiniop.Device("cpu") is infiniop.Device(0) is infiniop.Device(torch.device("cpu")) is infiniop.Device()
    assert infiniop.Device("cuda:1") is infiniop.Device("nvidia", 1) and str(infiniop.Device("cuda:1")) == "nvidia:1"
    assert infiniop.zeros(3, device="cpu").device is infiniop.Device("cpu")
    with pytest.raises(errors.DeviceNotSupportedError):
        infiniop.Device("sundial")
    with pytest.raises(errors.DeviceNotFoundError):
        infiniop.Device("cpu:1")
    with pytest.raises(TypeError):
        infiniop.Device(1.5)
    with pytest.raises(errors.InfiniopError):
        infiniop.zeros(3, device="kunlun")


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="no huge pages here")
def test_large_memory_is_in_huge_pages() -> None:
    """Advised to the kernel ("hg"), from the first byte on: weights stream faster from them."""
    tensor = infiniop.empty((8 << 20,), dtype=infiniop.uint8)
    address = tensor.data_ptr
    assert address % (2 << 20) == 0
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)[1:]
    bounds = [[int(bound, 16) for bound in m.split(" ", 1)[0].split("-")] for m in mappings]
    (mapping,) = [m for m, (low, high) in zip(mappings, bounds, strict=True) if low <= address < high]
    assert " hg" in re.search(r"^VmFlags:(.*)$", mapping, re.MULTILINE)[1]


def test_a_tensor_of_a_tensor_is_a_copy() -> None:
    source = infiniop.zeros(4)
    for copied in (Tensor(source), Tensor(source[1:3]), Tensor(source, dtype="float64")):
        copied.copy_(np.ones(copied.shape, copied.dtype.numpy))
        assert source.tolist() == [0] * 4


def test_shapes_that_cannot_be() -> None:
    with pytest.raises(errors.TensorShapeError, match="0 or more"):
        infiniop.zeros(4).as_strided((-1,), (1,))
    with pytest.raises(errors.InternalError, match="cannot allocate"):
        infiniop.empty((1 << 40, 1 << 40))
