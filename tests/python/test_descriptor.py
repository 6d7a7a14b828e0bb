"""The four steps as an object."""

from __future__ import annotations

import numpy as np
import pytest

import infiniop
from infiniop import errors


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 16)).astype(np.float32)
    return {"y": np.zeros_like(x), "x": x, "w": np.ones(16, np.float32)}


def test_create_calculate_and_close() -> None:
    given = arrays()
    with infiniop.descriptor("rms_norm", **given, epsilon=1e-5) as d:
        assert d.workspace_size >= 0 and d.backend == "cpu"
        d.calculate()
        expected = given["x"] / np.sqrt((given["x"].astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5)
        assert np.allclose(given["y"], expected, atol=1e-6)
        other = np.zeros((4, 16), np.float32)
        d.calculate(y=other, workspace=np.zeros(max(d.workspace_size, 1), np.uint8))
        assert np.array_equal(other, given["y"])
    with pytest.raises(errors.BadParamError, match="closed"):
        d.calculate()


def test_another_backend() -> None:
    with infiniop.descriptor("rms_norm", **arrays(), backend="reference") as d:
        assert d.backend == "reference"
        d.calculate()


def test_arguments_keep_the_signature_they_were_made_for() -> None:
    with infiniop.descriptor("rms_norm", **arrays()) as d:
        with pytest.raises(errors.BadParamError) as caught:
            d.calculate(x=np.zeros((4, 8), np.float32))
        assert caught.value.argument == "x" and "[4, 16]" in caught.value.expected
        with pytest.raises(TypeError, match="no argument z"):
            d.calculate(z=1)


def test_attributes_given_at_run() -> None:
    a, b, c = (np.ones((2, 2), np.float32) for _ in range(3))
    with infiniop.descriptor("gemm", c=c, a=a, b=b) as d:
        d.calculate(alpha=2.0, beta=1.0)
        assert (c == 5).all()
        d.calculate(alpha=0.5)
        assert (c == 1).all()


def test_optional_tensors() -> None:
    x, w = np.ones((2, 4), np.float32), np.ones((3, 4), np.float32)
    y = np.zeros((2, 3), np.float32)
    with infiniop.descriptor("linear", y=y, x=x, weight=w) as d:
        d.calculate()
        assert (y == 4).all()
        with pytest.raises(errors.BadParamError, match="bias"):
            d.calculate(bias=np.ones(3, np.float32))


def test_what_create_refuses() -> None:
    with pytest.raises(TypeError, match="no argument q"):
        infiniop.descriptor("rms_norm", **arrays(), q=1)
    with pytest.raises(errors.NullPointerError):
        infiniop.descriptor("rms_norm", x=arrays()["x"], w=arrays()["w"])
    with pytest.raises(errors.TensorShapeError) as caught:
        infiniop.descriptor("rms_norm", **{**arrays(), "w": np.ones(15, np.float32)})
    assert caught.value.argument == "w"
    with pytest.raises(errors.BadParamError, match="no operator"):
        infiniop.descriptor("fly")


def test_a_short_workspace() -> None:
    q, cache = np.zeros((8, 64, 64), np.float32), np.zeros((2, 8, 64, 64), np.float32)
    given = {"out": np.zeros((64, 8, 64), np.float32), "q": q, "k": q, "v": q, "k_cache": cache[0], "v_cache": cache[1]}
    with infiniop.descriptor("attention", **given, pos=0) as d:
        if d.workspace_size == 0:
            pytest.skip("attention needs no workspace here")
        with pytest.raises(errors.InsufficientWorkspaceError) as caught:
            d.calculate(workspace=np.zeros(d.workspace_size - 1, np.uint8))
        assert str(d.workspace_size) in caught.value.expected
