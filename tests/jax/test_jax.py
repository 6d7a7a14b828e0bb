"""`infiniop.jax`: every operator's own samples under `jit`; donation, vmap, threads, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("jax.numpy")  # not "jax": that is the name of this folder as well
import jax
import jax.numpy as jnp

import infiniop.jax
from infiniop import errors, ops
from infiniop.gen.jax import parameters
from infiniop.gen.python import identifier
from infiniop.jax import handler
from infiniop.operators import all_operators
from infiniop.schema import Operator, Role, Sample


def usable(operator: Operator, sample: Sample) -> bool:
    """Small, without what only a backend can lay out, with outputs that follow from the inputs."""
    if sample.tags or sample.prepare:
        return False
    return all(t.size < 1 << 14 and t.dtype != np.float64 for t in sample.tensors.values() if t is not None)


@pytest.mark.parametrize("name", all_operators())
def test_samples_give_what_numpy_gives(name: str) -> None:
    operator, count = all_operators()[name], 0
    for sample in operator.samples(np.random.default_rng(0)):
        if count == 3 or not usable(operator, sample):
            continue
        tensors = {t.name: sample.tensors.get(t.name) for t in operator.tensors}
        arrays = {identifier(t.name): np.ascontiguousarray(tensors[t.name]).reshape(tensors[t.name].shape)
                  for t in operator.inputs if tensors[t.name] is not None}  # fmt: skip
        attrs = {identifier(a.name): sample.attrs.get(a.name, a.default) for a in operator.attrs}
        copies = {k: a.copy() for k, a in arrays.items()}
        read = any(t.read_when for t in operator.tensors) and attrs.get("beta")
        if read:
            attrs["beta"] = 0.0
        try:
            expected = getattr(ops, name)(**copies, **attrs)
        except errors.InfiniopError:
            continue  # this sample's outputs do not follow from its inputs
        with jax.enable_x64(True):
            made = jax.jit(lambda kw, attrs=attrs: getattr(infiniop.jax, name)(**kw, **attrs))(arrays)
        expected = expected if isinstance(expected, tuple) else (expected,)
        made = made if isinstance(made, tuple) else (made,)
        for tensor, ours, theirs in zip(operator.outputs, made, expected, strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            if tensor.role is Role.INOUT or tensor.written is None:
                np.testing.assert_array_equal(np.asarray(ours), theirs)
        count += 1


def caches() -> tuple[jax.Array, ...]:
    return tuple(jnp.zeros((3, 1, 2, 2)) for _ in range(2))


def test_paged_caching_writes_donated_caches_in_place() -> None:
    k = jnp.arange(6.0).reshape(3, 1, 2)
    k_cache, v_cache = caches()
    before = k_cache.unsafe_buffer_pointer()
    step = jax.jit(infiniop.jax.paged_caching, donate_argnums=(0, 1))
    changed, _ = step(k_cache, v_cache, k, k, jnp.array([5, -1, 0]))  # int32: JAX without x64 has nothing else
    assert changed.unsafe_buffer_pointer() == before and k_cache.is_deleted()
    assert changed[2, 0, 1].tolist() == [0, 1] and changed[0, 0, 0].tolist() == [4, 5]
    kept, v_cache = caches()
    changed, _ = infiniop.jax.paged_caching(kept, v_cache, k, k, jnp.array([5, -1, 0]))
    assert changed.any() and not kept.any()


def test_vmap() -> None:
    x, w = jnp.arange(24.0).reshape(3, 2, 4), jnp.arange(4.0)
    each = jnp.stack([infiniop.jax.rms_norm(row, w) for row in x])
    assert jnp.array_equal(jax.vmap(infiniop.jax.rms_norm, (0, None))(x, w), each)
    assert jnp.array_equal(jax.vmap(infiniop.jax.add)(x, x), x + x)
    assert jnp.array_equal(jax.vmap(infiniop.jax.add, (0, None))(x, x[0]), x + x[0])


def test_many_threads() -> None:
    @jax.jit
    def rows(x):
        return infiniop.jax.softmax(infiniop.jax.add(x, x), axis=-1)

    inputs = [jnp.ones((n % 7 + 1, 8)) * n for n in range(40)]
    with ThreadPoolExecutor(8) as threads:
        for x, made in zip(inputs, threads.map(rows, inputs), strict=True):
            np.testing.assert_allclose(np.asarray(made), np.full(x.shape, 0.125), rtol=1e-6)


def test_an_output_that_is_read_can_be_given() -> None:
    a = jnp.arange(6.0).reshape(2, 3)
    c = jnp.ones((2, 2))
    assert jnp.allclose(infiniop.jax.gemm(a, a.T, beta=2.0, c=c), a @ a.T + 2)
    with pytest.raises(errors.BadParamError) as caught:
        infiniop.jax.gemm(a, a.T, beta=2.0)
    assert (caught.value.op, caught.value.argument) == ("gemm", "c")


def test_no_elements() -> None:
    assert infiniop.jax.add(jnp.zeros((0, 3)), jnp.zeros((0, 3))).shape == (0, 3)


def test_what_shapes_and_dtypes_show_is_refused_while_tracing() -> None:
    x = jnp.ones((2, 3))
    for bad, error, argument in [
        ((x, jnp.ones(4)), errors.TensorShapeError, "w"),
        ((x, jnp.ones(3, jnp.int32)), errors.TensorDtypeError, "w"),
        ((x, None), errors.NullPointerError, "w"),
        (("no array", x), errors.TensorDtypeError, "x"),
    ]:
        with pytest.raises(error) as caught:
            infiniop.jax.rms_norm(*bad)
        assert (caught.value.op, caught.value.argument) == ("rms_norm", argument)
    with pytest.raises(errors.BadParamError, match="Python value"):
        jax.jit(lambda x, e: infiniop.jax.rms_norm(x, x[0], epsilon=e))(x, 1.0)


def test_what_only_values_show_is_an_error_of_the_run() -> None:
    k = jnp.ones((1, 1, 2))
    with pytest.raises(Exception, match=r"paged_caching: slot_mapping: expected values below 6, got 6 at \[0\]"):
        jax.block_until_ready(infiniop.jax.paged_caching(*caches(), k, k, jnp.array([6])))


def test_gradients_are_refused_by_name() -> None:
    x = jnp.ones((2, 3))
    with pytest.raises(errors.BadParamError, match="no backward") as caught:
        jax.grad(lambda w: infiniop.jax.rms_norm(x, w).sum())(x[0])
    assert (caught.value.op, caught.value.argument) == ("rms_norm", "w")
    stopped = jax.grad(lambda w: (w * infiniop.jax.rms_norm(x, jax.lax.stop_gradient(w))).sum())(x[0])
    assert jnp.allclose(stopped, 2)


def test_names_and_signatures_follow_the_operator_files() -> None:
    assert dir(infiniop.jax) == sorted(all_operators())
    assert infiniop.jax.gemm.__signature__ == parameters(all_operators()["gemm"])
    with pytest.raises(AttributeError):
        infiniop.jax.no_such_operator  # noqa: B018


def test_without_a_compiler_the_error_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("CXX", "/no/such/c++")
    with pytest.raises(RuntimeError, match="no /no/such/c"):
        handler.build(tmp_path)
    assert not list(tmp_path.glob("*.so"))
