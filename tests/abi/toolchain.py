"""Compiling and running C and C++ programs against an installed prefix.

`INFINI_ROOT` names another prefix than `infiniop root`, `INFINIOP_TEST_FLAGS` adds compiler flags (`sanitizers.sh` runs
the same tests on an instrumented build), `INFINIOP_TEST_TOOLS` is a prefix of the compilers' names (`arm64.sh`),
`INFINIOP_TEST_RUNNER` a command to run programs with (`baseline.sh`).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE.parent.parent
LIBRARIES = ("infiniccl", "infiniop", "infinirt")
VARIANTS = (
    "GOOD", "WRONG_MAJOR", "SHORT", "NO_SYMBOL", "NULL_WITH_WORDS", "NULL_SILENT", "DUPLICATE", "NO_CALCULATE",
    "NO_MALLOC", "HALF_A_GRAPH", "BAD_NAME", "TINY", "NULL_KERNEL", "TWICE", "WRONG",
)  # fmt: skip
_OWN_VARIABLES = (
    "INFINIOP_BACKENDS",
    "INFINIOP_BACKEND_PATH",
    "INFINIOP_FALLBACK",
    "INFINIOP_LOG_LEVEL",
    "INFINIOP_VERIFY",
)


def run(command: Sequence[object], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run in an environment without the variables that change what the registry does."""
    clean = {k: v for k, v in os.environ.items() if k not in _OWN_VARIABLES}
    return subprocess.run([str(c) for c in command], env=clean | dict(env or {}), capture_output=True, text=True)


def execute(
    program: Path, *arguments: object, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a compiled program, under the emulator that `INFINIOP_TEST_RUNNER` names if any."""
    return run([*shlex.split(os.environ.get("INFINIOP_TEST_RUNNER", "")), program, *arguments], env)


@dataclass(frozen=True)
class Toolchain:
    prefix: Path
    folder: Path

    @property
    def include(self) -> Path:
        return self.prefix / "include"

    @property
    def lib(self) -> Path:
        return self.prefix / "lib"

    def compiler(self, cplusplus: bool, standard: str = "") -> list[str]:
        name, usual = ("g++", "c++17") if cplusplus else ("gcc", "c11")
        language = [os.environ.get("INFINIOP_TEST_TOOLS", "") + name, f"-std={standard or usual}"]
        extra = shlex.split(os.environ.get("INFINIOP_TEST_FLAGS", ""))
        return [
            *language,
            "-D_POSIX_C_SOURCE=200809L",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            f"-I{self.include}",
            *extra,
        ]

    def compile(self, output: Path, sources: Sequence[Path], flags: Sequence[str] = (), standard: str = "") -> Path:
        cplusplus = sources[0].suffix in (".cpp", ".cc")
        done = run([*self.compiler(cplusplus, standard), *sources, "-o", output, *flags])
        assert done.returncode == 0, done.stderr
        return output

    @property
    def libraries(self) -> list[str]:
        return [f"-L{self.lib}", f"-Wl,-rpath,{self.lib}", *(f"-l{n}" for n in LIBRARIES), "-lpthread"]

    def program(self, name: str, flags: Sequence[str] = (), standard: str = "") -> Path:
        output = self.folder / f"{name.replace('.', '_')}{standard}"
        return self.compile(output, [HERE / "programs" / name], [*flags, *self.libraries], standard)

    def plugin(self, variant: str) -> Path:
        flags = ["-shared", "-fPIC", "-fvisibility=hidden", f"-DVARIANT={VARIANTS.index(variant)}"]
        if variant == "NO_SYMBOL":
            flags.append("-Dinfiniop_backend_init=some_other_symbol")
        return self.compile(self.folder / f"libtoy_{variant.lower()}.so", [HERE / "plugins" / "toy.c"], flags)


def installed_prefix() -> Path:
    if "INFINI_ROOT" in os.environ:
        return Path(os.environ["INFINI_ROOT"])
    found = run([sys.executable, "-m", "infiniop", "root"])
    assert found.returncode == 0, found.stderr
    return Path(found.stdout.strip())
