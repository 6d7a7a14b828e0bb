"""Shadow mode from C: a backend with memory of its own against the CPU, without Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toolchain import Toolchain, execute


@pytest.mark.parametrize("variant", ["good", "wrong"])
def test_a_device_against_the_cpu(toolchain: Toolchain, plugins: Path, tmp_path: Path, variant: str):
    env = {"INFINIOP_VERIFY": "cpu", "INFINIOP_VERIFY_DIR": str(tmp_path / "kept")}
    done = execute(toolchain.program("verify.c"), plugins / f"libtoy_{variant}.so", "toy", "toy", env=env)
    assert done.returncode == 0, done.stderr
    first, values, compared = done.stdout.splitlines()
    assert compared == "3"
    if variant == "good":
        assert (first, values) == ("0 ", "0 0 2 0 4")
        assert "infiniop verify: 3 calls agree, 0 differ, 0 not verified" in done.stderr
        return
    text = "y: 1 of 4 elements differ, the first at [1, 1]: expected 4, got 5; to make the call again: "
    assert first.startswith(f"1 relu of backend 'toy' is wrong: {text}"), first
    assert values == "2 0 2 0 5", "relu is exact: no factor forgives"
    kept = json.loads((tmp_path / "kept" / "relu-1" / "call.json").read_text())
    assert kept["tensors"][0] == {
        "name": "y", "dtype": "F32", "shape": [2, 2], "strides": [2, 1], "memory": kept["tensors"][0]["memory"],
        "offset": 0,
    }  # fmt: skip


def test_the_reference_needs_python(toolchain: Toolchain, plugins: Path):
    env = {"INFINIOP_VERIFY": "reference"}
    done = execute(toolchain.program("verify.c"), plugins / "libtoy_good.so", "toy", "toy", env=env)
    assert done.returncode == 1
    assert "relu: INFINIOP_VERIFY: expected backends that are loaded, got reference" in done.stderr
