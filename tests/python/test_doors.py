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


def test_what_torch_has_put_off_is_refused() -> None:
    """The memory of a lazily negated or conjugated tensor does not hold its values, whatever was called before."""
    waves = torch.randn(8, dtype=torch.complex64)
    plain, lazy, out = torch.randn(16)[::2], waves.conj().imag, torch.empty(8)
    assert lazy.is_neg() and lazy.stride() == plain.stride()
    for _ in range(2):
        ops.add(plain, plain, out=out)
        ops.gemm(plain[:, None], plain[None], out=torch.empty(8, 8))
        ops.rearrange(waves, out=waves.clone())
    for x in (lazy, waves.conj()):
        with pytest.raises(errors.BadParamError, match="put off"):
            ops.rearrange(x, out=torch.empty(8, dtype=x.dtype))
        with pytest.raises(BufferError):
            infiniop.asarray(x)
    with pytest.raises(errors.BadParamError, match="put off"):
        ops.add(lazy, lazy, out=out)
    with pytest.raises(errors.BadParamError, match="put off"):
        ops.gemm(lazy[:, None], lazy[None], out=torch.empty(8, 8))


@pytest.mark.parametrize("x", [torch.ones(1), torch.ones(()), torch.ones(16)[::2], torch.ones(2, 4)])
def test_torch_tensors_with_nothing_put_off_go_the_short_way(x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """One element and even strides, which views of complex numbers' parts have as well, are no exception."""
    out = torch.empty_like(x)
    ops.add(x, x, out=out)
    monkeypatch.delitem(ops.add.__globals__, "call")  # the way of first calls
    ops.add(x, x, out=out.zero_())
    assert torch.equal(out, x + x)


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


def test_attributes_that_do_not_fit_are_named_once_a_plan_is_cached() -> None:
    logits, out = np.ones(4, np.float32), np.zeros((), np.int64)
    settings = {"random_val": 0.5, "topp": 0.9, "topk": 3, "temperature": 1.0}
    for _ in range(2):
        ops.random_sample(logits, **settings, out=out)
    for name, value in (("topk", 1 << 40), ("topk", "x"), ("topk", 1.5), ("topp", "x"), ("temperature", None)):
        with pytest.raises(errors.BadParamError, match=f"random_sample: {name}: expected an? "):
            ops.random_sample(logits, **{**settings, name: value}, out=out)


def test_outputs_that_would_have_negative_extents() -> None:
    with pytest.raises(errors.TensorShapeError, match="extents of 0 or more"):
        ops.select_last_token_hidden(np.zeros((1, 2, 4), np.float32), np.zeros(0, np.int32))


def test_options_by_name_or_number() -> None:
    x = np.random.default_rng(0).standard_normal((2, 2, 8)).astype(np.float32)
    sin, cos = np.sin(np.ones((4, 4), np.float32)), np.cos(np.ones((4, 4), np.float32))
    positions = np.arange(2, dtype=np.int32)
    for number, name in enumerate(("GPT_J", "GPT_NEOX")):
        by_name = ops.rope(x, positions, sin, cos, algo=name)
        assert np.array_equal(by_name, ops.rope(x, positions, sin, cos, algo=number))


class Interface:
    """An array that only says where NumPy finds it."""

    def __init__(self, array: np.ndarray):
        self.array = array

    @property
    def __array_interface__(self) -> dict:
        return self.array.__array_interface__


class OnDevice:
    """Device memory of a library without DLPack; nothing reads it here."""

    def __init__(self, **fields: object):
        given = {"shape": (2, 3), "typestr": "<f4", "data": (0x1000, False), "version": 3, "strides": None}
        self.fields = given | fields

    @property
    def __cuda_array_interface__(self) -> dict:
        return self.fields


def frozen(array: np.ndarray) -> np.ndarray:
    made = array.view()
    made.flags.writeable = False
    return made


def misaligned(array: np.ndarray) -> np.ndarray:
    made = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    made[...] = array
    return made


REFUSED = {  # what is wrong with it: the array made so, what the message says
    "mask": (lambda a: np.ma.array(a, mask=a > 0), "mask"),
    "alignment": (misaligned, "multiple of 4 bytes"),
    "alignment, torch": (lambda a: torch.from_numpy(misaligned(a)), "multiple of 4 bytes"),
    "alignment, interface": (lambda a: Interface(misaligned(a)), "multiple of 4 bytes"),
    "byte order": (lambda a: a.astype(">f4"), "byte order"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", REFUSED)
@pytest.mark.parametrize("argument", ["a", "b", "c"])
def test_what_an_operator_cannot_take_is_refused_by_name(wrong: str, argument: str) -> None:
    make, message = REFUSED[wrong]
    arrays = {name: np.ones((5, 8), np.float32) for name in "abc"}
    ops.add(arrays["a"], arrays["b"], out=arrays["c"])  # a descriptor for these shapes is known by now
    made = make(arrays[argument])
    mixed = arrays | {argument: made}
    if isinstance(made, torch.Tensor):
        mixed = {name: made if name == argument else torch.from_numpy(a) for name, a in arrays.items()}
        ops.add(*[torch.from_numpy(a) for a in (arrays["a"], arrays["b"])], out=torch.from_numpy(arrays["c"]))
    for _ in range(2):
        with pytest.raises(errors.InfiniopError, match=message) as caught:
            ops.add(mixed["a"], mixed["b"], out=mixed["c"])
        assert (caught.value.op, caught.value.argument) == ("add", argument)
    with pytest.raises(errors.InfiniopError, match=message) as caught:
        infiniop.descriptor("add", **mixed)
    assert (caught.value.op, caught.value.argument) == ("add", argument)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_alignment_counts_where_attributes_come_with_the_call(kind) -> None:
    a, b = np.ones((4, 4), np.float32), np.ones((4, 4), np.float32)
    arrays, bad = [kind(a), kind(b)], kind(misaligned(a))
    out = kind(np.zeros((4, 4), np.float32))
    for _ in range(3):
        ops.gemm(*arrays, out=out)
    with pytest.raises(errors.BadParamError, match="multiple of 4") as caught:
        ops.gemm(bad, arrays[1], out=out)
    assert caught.value.op == "gemm" and caught.value.argument == "a"
    with pytest.raises(errors.BadParamError, match="multiple of 4"):
        ops.gemm(*arrays, out=bad)


@pytest.mark.parametrize("lend", [frozen, lambda a: Foreign(frozen(a)), lambda a: Interface(frozen(a))])
def test_read_only_memory_is_read_and_never_written(lend) -> None:
    a, b = inputs()
    assert np.array_equal(np.asarray(ops.add(lend(a), lend(b))), a + b)
    cache = np.zeros((2, 1, 4, 8), np.float32)
    rows = np.ones((3, 1, 8), np.float32)
    with pytest.raises(errors.BadParamError, match="read-only"):
        ops.add(a, b, out=lend(a))
    with pytest.raises(errors.BadParamError, match="read-only") as caught:
        ops.paged_caching(cache, lend(cache), rows, rows, np.array([0, 5, -1]))
    assert caught.value.argument == "v_cache" and not cache.any()


def test_arrays_of_jax_are_read_and_never_written() -> None:
    jnp = pytest.importorskip("jax.numpy")
    a, b = inputs()
    x, y, out = jnp.asarray(a), jnp.asarray(b), jnp.zeros((5, 8), jnp.float32)
    made = ops.add(x, y)
    assert type(made) is type(x) and np.array_equal(np.asarray(made), a + b)
    for _ in range(2):
        with pytest.raises(errors.BadParamError, match="read-only") as caught:
            ops.add(x, y, out=out)
        assert caught.value.argument == "c"
    cache, rows = jnp.zeros((2, 1, 4, 8), jnp.float32), jnp.ones((3, 1, 8), jnp.float32)
    with pytest.raises(errors.BadParamError, match="read-only"):
        ops.paged_caching(cache, cache, rows, rows, np.array([0, 5, -1]))
    assert not np.asarray(out).any() and not np.asarray(cache).any()
    assert infiniop.from_dlpack(x).readonly and infiniop.from_dlpack(x).data_ptr == x.unsafe_buffer_pointer()


def test_array_interface() -> None:
    a, b = inputs()
    out = np.zeros_like(a)
    given = Interface(out[:, ::-1])
    for _ in range(2):
        assert ops.add(Interface(a[:, ::-1]), Interface(b[:, ::-1]), out=given) is given
        assert np.array_equal(out, a + b)
    made = ops.add(Interface(a), b)
    assert type(made) is np.ndarray and np.array_equal(made, a + b)
    from infiniop.arrays import as_tensor

    assert as_tensor(Interface(a)).data_ptr == a.ctypes.data
    with pytest.raises(TypeError, match="no array"):
        ops.add(a, b, out=np.float32(0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "strides", "readonly"),
    [
        ({}, (3, 1), False),
        ({"version": 2, "data": (0x1000, True)}, (3, 1), True),
        ({"strides": (4, 8)}, (1, 2), False),
        ({"descr": [("", "<f4")], "stream": None}, (3, 1), False),
    ],
)
def test_cuda_array_interface(fields: dict, strides: tuple[int, ...], readonly: bool) -> None:
    from infiniop.arrays import as_tensor

    made = as_tensor(OnDevice(**fields))
    assert (made.shape, made.strides, made.dtype) == ((2, 3), strides, infiniop.float32)
    assert (str(made.device), made.data_ptr, made.readonly) == ("nvidia:0", 0x1000, readonly)
    empty = as_tensor(OnDevice(**fields | {"shape": (0, 3), "data": (None, False)}))
    assert empty.numel() == 0 and empty.data_ptr == 0


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"version": 1}, errors.BadParamError, "version 2 or 3"),
        ({"mask": object()}, errors.BadParamError, "mask"),
        ({"stream": 0}, errors.BadParamError, "forbids"),
        ({"strides": (6, 4)}, errors.BadParamError, "strides"),
        ({"strides": (4,)}, errors.BadParamError, "strides"),
        ({"data": (0x1002, False)}, errors.BadParamError, "multiple of 4"),
        ({"typestr": ">f4"}, errors.TensorDtypeError, "byte order"),
        ({"typestr": "<V2"}, errors.TensorDtypeError, "not one of"),
    ],
)
def test_cuda_array_interface_refusals(fields: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        ops.add(OnDevice(**fields), OnDevice())
    assert (caught.value.op, caught.value.argument) == ("add", "a")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without the device")
@pytest.mark.parametrize("stream", [None, 1, 2, 0x7000])
def test_cuda_arrays_without_the_device(stream: int | None) -> None:
    for _ in range(2):
        with pytest.raises((errors.DeviceNotSupportedError, errors.DeviceNotFoundError), match="nvidia"):
            ops.add(OnDevice(stream=stream), OnDevice(), out=OnDevice())
    with pytest.raises(errors.BadParamError, match="nvidia"):
        ops.add(np.ones((2, 3), np.float32), OnDevice())
