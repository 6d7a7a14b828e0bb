"""The C and C++ examples, built outside the repository against an installed prefix, print what they say they print."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import infiniop

SOURCES = Path(__file__).resolve().parents[2]
EXAMPLES = {"c": "paged_caching.c", "cpp": "paged_caching.cpp"}


def run(command: list[object], **variables: str) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=os.environ | variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def comment(source: Path) -> str:
    """The comment at the top, without its marks."""
    head = re.match(r"/\*.*?\*/|(//[^\n]*\n)+", source.read_text(), re.S)
    assert head, f"{source} has no comment"
    return re.sub(r"^ ?(\*/|\*|//|/\*) ?", "", head[0], flags=re.M)


def promised(source: Path) -> str:
    """What the comment says the program prints."""
    block = comment(source).partition("It prints:\n\n")[2]
    return re.sub(r"^    ", "", block, flags=re.M).rstrip() + "\n"


def with_cmake(folder: Path, build: Path, prefix: Path) -> Path:
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    run([cmake, "-S", folder, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"])
    run([cmake, "--build", build])
    return build / "paged_caching"


def with_pkg_config(source: Path, build: Path, prefix: Path) -> Path:
    """By the command in the example's own comment."""
    command = re.search(r"^    (g(?:cc|\+\+) .*) && ", comment(source), re.M)
    assert command, f"{source} says no command"
    build.mkdir()
    text = command[1].replace(source.name, str(source))
    run(["bash", "-c", f"cd {build} && {text}"], PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig"))
    return build / "paged_caching"


@pytest.mark.parametrize("language", EXAMPLES)
@pytest.mark.parametrize("tool", ["cmake", "pkg-config"])
def test_example(tmp_path: Path, language: str, tool: str):
    check(tmp_path, language, tool, infiniop.root())


@pytest.fixture(scope="module")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The prefix that `infiniop root` prints where the wheel is installed."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run([*pip, "install", "--no-deps", "--target", folder / "site", wheel])
    # Neither the working folder nor `site`, which loads the editable install's finder; dependencies from here.
    paths = f"{folder / 'site'}{os.pathsep}{sysconfig.get_path('platlib')}"
    printed = run([sys.executable, "-SP", "-m", "infiniop", "root"], PYTHONPATH=paths)
    assert Path(printed.strip()) == folder / "site" / "infiniop"
    return Path(printed.strip())


@pytest.mark.full
@pytest.mark.parametrize("language", EXAMPLES)
@pytest.mark.parametrize("tool", ["cmake", "pkg-config"])
def test_example_with_the_wheel(tmp_path: Path, installed_wheel: Path, language: str, tool: str):
    check(tmp_path, language, tool, installed_wheel)


def check(tmp_path: Path, language: str, tool: str, prefix: Path) -> None:
    if tool == "pkg-config" and shutil.which(tool) is None:
        pytest.skip("pkg-config is not installed")
    folder = tmp_path / language  # outside the repository: only the prefix gives headers and libraries
    shutil.copytree(SOURCES / "examples" / language, folder)
    source = folder / EXAMPLES[language]
    if tool == "cmake":
        program = with_cmake(folder, tmp_path / f"build-{language}", prefix)
    else:
        program = with_pkg_config(source, tmp_path / f"build-{language}", prefix)
    assert run([program]) == promised(source)


def test_another_version_is_not_found(tmp_path: Path):
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(asks LANGUAGES C)\nfind_package(infiniop 99 CONFIG)\n"
        'message(STATUS "found: ${infiniop_FOUND} of ${infiniop_CONSIDERED_VERSIONS}")\n'
    )
    output = run(["cmake", "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={infiniop.root()}"])
    assert f"found: 0 of {infiniop.__version__}" in output
