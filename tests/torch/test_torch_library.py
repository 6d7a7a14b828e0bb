"""`torch.ops.infiniop`: schemas, values, errors, and what torch.library.opcheck demands."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch_samples import EVERY, Call, as_bytes, fits, handful  # noqa: E402

from infiniop import errors  # noqa: E402
from infiniop.schema import Role  # noqa: E402

infini = torch.ops.infiniop
each_overload = pytest.mark.parametrize("overload", EVERY, ids=lambda o: o.name)


def test_the_base_package_does_not_import_torch():
    program = "import infiniop, sys; from infiniop import ops; ops.add; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_schemas():
    assert str(infini.rms_norm.default._schema) == (
        "infiniop::rms_norm(Tensor x, Tensor w, float epsilon=9.9999999999999995e-07) -> Tensor"
    )
    assert str(infini.paged_caching.default._schema) == (
        "infiniop::paged_caching(Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor k, Tensor v, Tensor slot_mapping) -> ()"
    )
    assert str(infini.embedding.out._schema) == (
        "infiniop::embedding.out(Tensor input, Tensor weight, *, Tensor(a!) out) -> ()"
    )
    assert str(infini.layer_norm.default._schema).startswith(
        "infiniop::layer_norm(Tensor input, Tensor weight, Tensor? bias=None"
    )
    assert infini.rope.default._schema.arguments[-1].default_value == "GPT_NEOX"


# ---- every operator -----------------------------------------------------------------------------------------


@each_overload
def test_opcheck(overload):
    for sample in handful(overload, 4):
        call = Call(overload, sample)
        torch.library.opcheck(call.function, call.args, call.kwargs)


@pytest.mark.full
@each_overload
def test_opcheck_of_all_small_samples(overload):
    for sample in overload.operator.samples(np.random.default_rng(1)):
        if fits(overload, sample):
            call = Call(overload, sample)
            torch.library.opcheck(call.function, call.args, call.kwargs)


@each_overload
def test_values_are_those_of_the_plain_functions(overload):
    fresh = [t.name for t in overload.operator.tensors if t.role is Role.OUT]
    for sample in handful(overload, 30):
        call, plain = Call(overload, sample), Call(overload, sample)
        for name in fresh if overload.made else ():  # what stays untouched is zero in a new tensor
            plain.tensors[name].zero_()
        result = call()
        plain.plain()
        made = dict(zip(fresh, result if isinstance(result, tuple) else (result,), strict=False))
        assert overload.made or result is None
        for tensor in overload.operator.outputs:
            expected = plain.tensors[tensor.name]
            actual = made[tensor.name] if overload.made and tensor.name in made else call.tensors[tensor.name]
            if tensor.name in made and not any(t.dtype == tensor.dtype for t in overload.operator.inputs):
                actual = actual.to(expected.dtype)  # no input says which one the sample has
            assert actual.shape == expected.shape and actual.dtype == expected.dtype, sample.name
            assert as_bytes(actual) == as_bytes(expected), sample.name
        assert call.memory.violations() == [] or overload.made


def torch_takes(attr, value) -> bool:
    """Whether torch lets the value through, so that the operator can refuse it."""
    if attr.length is not None or not isinstance(value, int):
        return True
    limit = len(attr.enum) or (2 if isinstance(attr.default, bool) else 2**63)
    return (-limit if limit == 2**63 else 0) <= value < limit


@pytest.mark.parametrize("overload", [o for o in EVERY if not o.made], ids=lambda o: o.name)
def test_bad_arguments_name_operator_and_argument(overload):
    count = 0
    for sample in overload.operator.error_samples(np.random.default_rng(2)):
        attrs = [(a, sample.attrs.get(a.name, 0)) for a in overload.operator.attrs]
        if sample.null or not fits(overload, sample) or any(not torch_takes(a, value) for a, value in attrs):
            continue
        call = Call(overload, sample)
        with pytest.raises(errors.InfiniopError) as caught:
            call()
        assert caught.value.op == overload.operator.name and sample.argument in str(caught.value), sample.name
        count += 1
    assert count


# ---- rules --------------------------------------------------------------------------------------------------


def test_a_tensor_that_wants_a_gradient_is_refused():
    x, w = torch.ones(2, 4), torch.nn.Parameter(torch.ones(4))
    with pytest.raises(errors.BadParamError, match=r"rms_norm: w: .*no_grad.*no backward") as caught:
        infini.rms_norm(x, w)
    assert caught.value.argument == "w"
    with pytest.raises(errors.BadParamError, match="out"):
        infini.rms_norm.out(x, w.detach(), out=torch.empty(2, 4, requires_grad=True))
    with pytest.raises(errors.BadParamError):
        infini.rms_norm(x.to("meta"), w.to("meta"))
    with torch.no_grad():
        quiet = infini.rms_norm(x, w)
    with torch.inference_mode():
        inference = infini.rms_norm(x, w)
        infini.rms_norm.out(x, w, out=inference)
    assert not quiet.requires_grad and torch.equal(quiet, inference) and inference.is_inference()
    assert torch.equal(infini.rms_norm(x, w.detach()), quiet)


def test_changing_a_tensor_in_place_is_seen_by_autograd():
    cache, k = torch.zeros(2, 1, 4, 8), torch.ones(1, 1, 8)
    scale = torch.ones((), requires_grad=True)
    product = (scale * cache).sum()
    infini.paged_caching(cache, torch.zeros(2, 1, 4, 8), k, k, torch.tensor([3]))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_what_is_left_untouched_is_zero_in_a_new_tensor():
    q, cache = torch.ones(2, 2, 8), torch.ones(1, 2, 4, 8)
    tables = torch.zeros(2, 1, dtype=torch.int32)
    for _ in range(3):
        torch.full((2, 2, 8), 7.0)  # memory that a new tensor may get
        out = infini.paged_attention(q, cache, cache, tables, torch.tensor([2, 0], dtype=torch.int32), 1.0)
        assert not out[1].any() and out[0].all()


def test_an_output_that_is_read_must_be_given():
    a = torch.eye(2)
    assert torch.equal(infini.gemm(a, a, 2.0), 2 * a)
    with pytest.raises(errors.BadParamError, match=r"gemm: c: expected a tensor to read, in gemm\.out"):
        infini.gemm(a, a, 1.0, 0.5)
    out = torch.ones(2, 2)
    infini.gemm.out(a, a, 1.0, 0.5, out=out)
    assert torch.equal(out, a + 0.5)


def test_tensors_that_the_operators_cannot_take():
    x = torch.ones(2, 4)
    with pytest.raises(errors.TensorDtypeError, match=r"add: .*float8_e5m2"):
        infini.add(x.to(torch.float8_e5m2), x.to(torch.float8_e5m2))
    with pytest.raises(errors.TensorDtypeError, match="add: b"):
        infini.add(x, x.double())
    with pytest.raises(errors.TensorShapeError, match="add: b"):
        infini.add(x, x[:1])
    with pytest.raises(errors.TensorStridesError, match="rms_norm: x"):
        infini.rms_norm(torch.ones(4, 4).t(), torch.ones(4))
    with pytest.raises(errors.BadParamError, match="add: b: expected a tensor on meta"):
        infini.add(x.to("meta"), x)
    with pytest.raises(errors.BadParamError, match=r"relu: y: .*sparse"):
        infini.relu.out(x, out=x.to_sparse())
    with pytest.raises(errors.BadParamError, match="algo"):
        infini.rope(
            torch.ones(1, 1, 2), torch.zeros(1, dtype=torch.int32), torch.ones(1, 1), torch.ones(1, 1), "SPIRAL"
        )
    for a, b in ((x, None), (None, x)):
        with pytest.raises(errors.NullPointerError, match="add"):
            infini.add(a, b)


def test_views_scalars_and_empty_tensors():
    x = torch.arange(24.0).reshape(4, 6)
    for view in (x.t(), x[::2, 1::2], x[:0], x[0, 0], x.expand(3, 4, 6), x[:, None]):
        assert torch.equal(infini.add(view, view), view + view) and infini.add(view, view).is_contiguous()
    assert infini.linear(torch.ones(0, 4), torch.ones(3, 4)).shape == (0, 3)


def test_lazily_negated_and_conjugated_tensors():
    x = torch.tensor([1 + 2j, -3 - 4j], dtype=torch.complex64)
    for _ in range(2):
        assert torch.equal(infini.rearrange(x.conj()), x.conj().resolve_conj())
        assert torch.equal(infini.relu(x.conj().imag), torch.tensor([0.0, 4.0]))


def test_unsigned_and_half_types():
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.bfloat16, torch.float16):
        x = torch.tensor([[0, 1], [1, 1]]).to(dtype)
        assert infini.rearrange(x.t()).dtype is dtype and torch.equal(infini.rearrange(x.t()), x.t())


def test_threads():
    failures = []

    def work(seed: int) -> None:
        try:
            made = torch.Generator().manual_seed(seed)
            for _ in range(100):
                m, k, n = torch.randint(1, 30, (3,), generator=made).tolist()
                a, b = torch.rand(m, k, generator=made), torch.rand(k, n, generator=made)
                assert torch.allclose(infini.gemm(a, b), a @ b, atol=1e-4)
                assert torch.equal(infini.add(a, a), a + a)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_an_older_torch_without_the_exchange_table():
    """The key of outputs is made in Python there."""
    program = """
import torch
import infiniop.arrays as arrays
arrays._meet.__globals__["fast"] = None
import infiniop.torch
from infiniop.torch import kernels
assert kernels.key is kernels._key
x = torch.rand(3, 8)
for _ in range(3):
    assert torch.equal(torch.ops.infiniop.add(x.t(), x.t()), 2 * x.t())
    assert torch.ops.infiniop.silu_and_mul(x).shape == (3, 4)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
