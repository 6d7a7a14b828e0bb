"""What the environment may not say to a program with more privileges than its user."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from toolchain import Toolchain, run

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setcap"), reason="needs root and setcap"),
    pytest.mark.skipif("INFINIOP_TEST_FLAGS" in os.environ, reason="sanitizers refuse to run with elevated privileges"),
]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where everybody may read and write, as in pytest's own folders nobody may."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def elevate(program: Path) -> None:
    if run(["setcap", "cap_net_raw+ep", program]).returncode != 0:
        pytest.skip("the file system knows no capabilities")


def test_no_backends_from_the_environment(toolchain: Toolchain, plugins: Path, folder: Path):
    program = Path(shutil.copy(toolchain.program("list.c"), folder))
    env = {"INFINIOP_BACKEND_PATH": shutil.copy(plugins / "libtoy_good.so", folder)}
    plain = run([*NOBODY, program], env)
    if plain.returncode != 0:
        pytest.skip("another user cannot run it here")
    assert "toy" in plain.stdout
    elevate(program)
    elevated = run([*NOBODY, program], env)
    assert elevated.returncode == 0, elevated.stderr
    assert "toy" not in elevated.stdout


def test_no_shadow_mode_from_the_environment(toolchain: Toolchain, plugins: Path, folder: Path):
    """It writes files: neither calls nor folders of theirs."""
    program = Path(shutil.copy(toolchain.program("verify.c"), folder))
    command = [*NOBODY, program, shutil.copy(plugins / "libtoy_wrong.so", folder), "toy", "toy"]
    env = {"INFINIOP_VERIFY": "cpu", "INFINIOP_VERIFY_DIR": str(folder / "plain")}
    plain = run(command, env)
    if not plain.stdout:
        pytest.skip("another user cannot run it here")
    assert plain.stdout.startswith("1 relu of backend 'toy' is wrong"), plain.stderr
    assert (folder / "plain" / "relu-1" / "call.json").exists()
    elevate(program)
    elevated = run(command, env | {"INFINIOP_VERIFY_DIR": str(folder / "elevated")})
    assert elevated.stdout.startswith("0 "), elevated.stdout + elevated.stderr
    assert not (folder / "elevated").exists()
