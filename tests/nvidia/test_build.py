"""The library that nvcc built, on a machine that may have no driver: what it holds, and that it loads."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cubins import frames, images

import infiniop
from infiniop import errors, runtime
from infiniop.registry import BackendInfo, backends

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def backend() -> BackendInfo:
    for found in backends():
        if found.name == "nvidia":
            return found
    pytest.skip("the NVIDIA backend is not in this build: no nvcc")


def test_it_loads(backend: BackendInfo) -> None:
    assert backend.error == ""
    assert backend.kernels > 0


def test_without_a_driver_there_is_no_device_and_a_reason(backend: BackendInfo) -> None:
    if backend.device_count:
        pytest.skip("there is a device")
    assert "no device: " in backend.version
    assert runtime.device_count("nvidia") == 0
    with pytest.raises(errors.DeviceNotFoundError, match="0 devices of type nvidia"):
        infiniop.zeros(3, device="nvidia")


def test_it_links_no_library_of_nvidia(backend: BackendInfo) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    said = subprocess.run(["readelf", "-d", backend.origin], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"NEEDED.*(cuda|cublas|nccl|nvidia)", said)


def test_targets(backend: BackendInfo) -> None:
    """SASS for 8.0 and 9.0 and PTX for newer ones, of every kernel file that has any."""
    found = list(images(Path(backend.origin)))
    sass = [i.architecture for i in found if not i.is_ptx]
    ptx = [i.architecture for i in found if i.is_ptx]
    assert set(sass) == {80, 90} and set(ptx) == {90}
    files = len(list((ROOT / "backends/nvidia/kernels").glob("*.cu")))
    assert 0 < len(ptx) <= files and sass.count(80) == sass.count(90) >= len(ptx)


def test_no_kernel_spills(backend: BackendInfo) -> None:
    spilled = {
        f"{kernel} on sm_{image.architecture}": frame
        for image in images(Path(backend.origin))
        if not image.is_ptx
        for kernel, frame in frames(image.data).items()
        if frame
    }
    assert not spilled


def test_it_says_so_without_nvcc(tmp_path: Path) -> None:
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.26)\nproject(alone LANGUAGES CXX)\n"
        "set(CMAKE_CUDA_COMPILER NOTFOUND)\nset(ENV{CUDACXX} /nowhere/nvcc)\n"
        f"add_subdirectory({ROOT}/backends/nvidia nvidia)\n"
        "if(TARGET infiniop_nvidia)\n  message(FATAL_ERROR built)\nendif()\n"
    )
    done = subprocess.run([cmake, "-S", tmp_path, "-B", tmp_path / "b"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "NVIDIA backend: left out, no nvcc found" in done.stdout
