"""The descriptor cache: bounded, per thread, right when arguments change."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import infiniop
from infiniop import _call, errors, ops


def test_it_is_bounded() -> None:
    for n in range(1, _call.CACHE_LIMIT + 50):
        x = np.full(n, n, np.float32)
        t = infiniop.from_numpy(x)
        assert ops.mul(x, x, out=np.empty_like(x))[0] == n * n
        assert ops.mul(t, t, out=infiniop.empty(n))[0].item() == n * n
    assert len(_call.here.plans["mul"]) <= _call.CACHE_LIMIT
    caches = [cache for name, cache in _call.here.__dict__.items() if name.startswith("mul")]
    assert caches and all(0 < len(cache) <= _call.CACHE_LIMIT for cache in caches)
    one = np.ones(1, np.float32)
    assert ops.mul(one, one)[0] == 1  # evicted long ago


def test_attributes_and_layouts_are_part_of_the_key() -> None:
    x, w = np.full((2, 4), 3, np.float32), np.ones(4, np.float32)
    y = np.empty_like(x)
    small = ops.rms_norm(x, w, epsilon=1e-6, out=y).copy()
    large = ops.rms_norm(x, w, epsilon=7.0, out=y).copy()
    assert np.allclose(small, 1, atol=1e-5) and np.allclose(large, 0.75, atol=1e-5)
    a = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert np.array_equal(ops.add(a, a.T, out=np.empty_like(a)), a + a.T)
    assert np.array_equal(ops.add(a, a, out=np.empty_like(a)), a + a)


def test_pointers_are_not() -> None:
    out = np.empty(8, np.float32)
    for value in range(5):
        x = np.full(8, value, np.float32)
        assert (ops.add(x, x, out=out) == 2 * value).all()


def test_what_may_not_be_written_is_refused_by_a_warm_cache() -> None:
    x, out = np.ones(3, np.float32), np.empty(3, np.float32)
    lent = infiniop.from_numpy(out)
    for _ in range(3):
        assert (ops.add(x, x, out=out) == 2).all()
        assert ops.add(x, infiniop.from_numpy(x), out=lent) is lent
    out.flags.writeable = False
    for _ in range(2):
        with pytest.raises(errors.BadParamError, match="read-only"):
            ops.add(x, x, out=out)
    with pytest.raises(errors.TensorDtypeError):
        ops.add(x, x, out=np.empty(3, np.int32))
    with pytest.raises(errors.TensorShapeError):
        ops.add(x, x, out=np.empty(4, np.float32))


def test_any_strides_and_kinds_come_through_a_warm_cache() -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    for _ in range(3):
        out = np.zeros((4, 12), np.float32)
        assert ops.add(x[::2, ::-1], x[::-2, ::3].repeat(3, axis=1), out=out[::2, ::2]).shape == (2, 6)
        assert np.array_equal(out[::2, ::2], x[::2, ::-1] + x[::-2, ::3].repeat(3, axis=1)) and not out[1::2].any()
        mixed = infiniop.empty((4, 6))
        assert np.array_equal(ops.mul(infiniop.from_numpy(x), x, out=mixed).numpy(), x * x)


def test_torch_tensors_come_through_a_warm_cache() -> None:
    torch = pytest.importorskip("torch")
    x, out = torch.arange(6.0).reshape(2, 3), torch.empty(3, 2)
    for value in range(3):
        x[0, 0] = value
        assert torch.equal(ops.add(x.T, x.T, out=out), 2 * x.T) and out[0, 0] == 2 * value
        assert torch.equal(ops.mul(x.numpy(), x[1:].expand(2, 3), out=torch.empty(2, 3)), x * x[1:])
    with pytest.raises(errors.TensorDtypeError):
        ops.add(x, x, out=torch.empty(2, 3, dtype=torch.int32))


def test_threads_have_their_own() -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            rng = np.random.default_rng(seed)
            for _ in range(60):
                m, k, n = rng.integers(1, 40, 3)
                a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
                assert np.allclose(ops.gemm(a, b), a @ b, atol=1e-4)
                q = rng.standard_normal((2, int(m), 16)).astype(np.float32)
                cache = np.zeros((2, 64, 16), np.float32)
                assert np.isfinite(ops.attention(q, q, q, cache, cache.copy(), pos=0)[0]).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_signatures_are_interned_and_bounded() -> None:
    from infiniop.tensor import _INTERNED_LIMIT, Signature

    assert infiniop.zeros((2, 3))._sig is infiniop.zeros((2, 3))._sig
    assert infiniop.zeros((2, 3))._sig is not infiniop.zeros((2, 3), "int32")._sig
    device = infiniop.Device()
    for n in range(_INTERNED_LIMIT + 10):
        Signature.of((n,), (1,), infiniop.float32, device)
    assert len(Signature._known) <= _INTERNED_LIMIT
