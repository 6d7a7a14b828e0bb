"""Builds the CPU kernels with one planted fault at a time (mutants.py) and runs the kit on the operator.

    python tests/conformance/mutate.py [--isa NAME …] [--jobs N] [--only TEXT]

Needs the build in build/cmake, from which it takes compiler flags and all objects but the spoiled one; its own work
lies in build/mutants. Prints a line per mutant and the catch rate; fails below 95 %, and when the list does not fit the
sources.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mutants import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
CPU = ROOT / "backends" / "cpu"
WORK = ROOT / "build" / "mutants"
LEAST = 0.95  # of the mutants must be seen
PATIENCE = 300  # seconds; a mutant that hangs is seen
# The plugin must not pass for the built-in backend, nor bring a second runtime for its device.
RENAMED = (('backend.name = "cpu";', 'backend.name = "mutant";'), ("backend.runtime = &runtime;", ""))


class Misfit(ValueError):
    """The list and the sources disagree."""


def planted(mutant: Mutant) -> str:
    """The spoiled file. Raises `Misfit`."""
    text = (CPU / mutant.file).read_text()
    if text.count(mutant.old) != 1:
        raise Misfit(f"{mutant.file}: {mutant.old!r} occurs {text.count(mutant.old)} times: expected once")
    return text.replace(mutant.old, mutant.new)


def included(source: Path, seen: set[Path] | None = None) -> set[Path]:
    """The files of the backend that a file consists of, itself among them."""
    seen = set() if seen is None else seen
    seen.add(source)
    for name in re.findall(r'#include "([^"]+)"', source.read_text()):
        for folder in (source.parent, CPU):
            file = (folder / name).resolve()
            if file.is_file() and file not in seen:
                included(file, seen)
    return seen


def spoiled_units(mutant: Mutant) -> list[Path]:
    """The translation units to build anew: the operator's own, or where the file is not part of that, all it is in."""
    users = [u for u in sorted(CPU.glob("kernels/*.cc")) if CPU / mutant.file in included(u)]
    own = [u for u in users if f'"infiniop/schema/{mutant.op}.h"' in u.read_text()]
    if not users:
        raise Misfit(f"{mutant.file} is part of no kernel")
    return own or users


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Build:
    """The build of one instruction set."""

    isa: str
    commands: dict[Path, list[str]]  # by source, without the output
    objects: dict[Path, Path]

    @classmethod
    def of(cls, isa: str) -> Build:
        commands, objects = {}, {}
        for entry in json.loads((ROOT / "build" / "cmake" / "compile_commands.json").read_text()):
            if f"/infiniop_cpu_{isa}.dir/" in entry["output"]:
                words = ["-O1" if w == "-O3" else w for w in shlex.split(entry["command"])]  # half the time
                at = words.index("-o")
                source = Path(entry["file"])
                commands[source] = words[:at] + words[at + 2 :]
                objects[source] = Path(entry["directory"]) / entry["output"]
        if not commands:
            raise Misfit(f"there is no build of the instruction set {isa}: `make build` first")
        return cls(isa, commands, objects)

    def runs_here(self) -> bool:
        command = [sys.executable, "-m", "infiniop", "backends", "--json"]
        env = os.environ | {"INFINIOP_CPU_ISA": self.isa}
        return f"({self.isa}," in subprocess.run(command, env=env, capture_output=True, text=True).stdout

    def folder(self) -> Path:
        """Of everything that is linked with these objects; what came of older ones goes."""
        folder = WORK / self.isa / _digest(sorted((str(o), o.stat().st_mtime_ns) for o in self.objects.values()))
        for old in set((WORK / self.isa).glob("*")) - {folder}:
            shutil.rmtree(old)
        return folder

    def library(self, mutant: Mutant | None) -> Path:
        """The backend under another name, right or with a fault; built unless its sources were built before."""
        files = [*CPU.parent.glob("*.h"), *CPU.rglob("*.h"), *CPU.rglob("*.cc")]
        texts = {str(p.relative_to(CPU.parent)): p.read_text() for p in files}
        for old, new in RENAMED:
            if texts["cpu/backend.cc"].count(old) != 1:
                raise Misfit(f"backend.cc: expected {old!r} once")
            texts["cpu/backend.cc"] = texts["cpu/backend.cc"].replace(old, new)
        units = [CPU / "backend.cc"]
        if mutant is not None:
            texts[f"cpu/{mutant.file}"] = planted(mutant)
            units += spoiled_units(mutant)
        parts = {str(file.relative_to(CPU.parent)) for unit in units for file in included(unit)}
        key = _digest([self.commands[u] for u in units], [texts[p] for p in sorted(parts)])
        made = self.folder() / key / "libmutant.so"
        if not made.exists():
            shutil.rmtree(made.parent, ignore_errors=True)
            self._build(made, texts, units)
        return made

    def _build(self, made: Path, texts: dict[str, str], units: list[Path]) -> None:
        tree = made.parent / "backends"
        for name, text in texts.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(text)
        fresh = []
        for unit in units:
            fresh.append(made.parent / f"{unit.stem}.o")
            words = [word.replace(str(CPU), str(tree / "cpu")) for word in self.commands[unit]]
            subprocess.run([*words, "-o", fresh[-1]], check=True, capture_output=True, text=True)
        # The linker takes an inline function from the first object that has it: the spoiled ones stand first.
        rest = [o for source, o in self.objects.items() if source not in units]
        flags = ["-shared", f"-Wl,--version-script={CPU.parent / 'exports.map'}", "-Wl,--no-undefined"]
        linked = made.parent / "linked.so"
        subprocess.run(["g++", *flags, *fresh[::-1], *rest, "-lpthread", "-ldl", "-lm", "-o", linked], check=True)
        shutil.rmtree(tree)
        for file in fresh:
            file.unlink()
        linked.rename(made)


def seen(library: Path, op: str, threads: bool) -> str | None:
    """What the kit finds; a crash and a hang are findings, for pytest shows them with the operator's name."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("INFINIOP_")}
    env |= {"INFINIOP_BACKEND_PATH": str(library), "INFINIOP_NUM_THREADS": "2" if threads else "1"}
    command = [sys.executable, Path(__file__).parent / "finding.py", "mutant", op]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"hangs for {PATIENCE} s"
    if done.returncode < 0:
        return f"crashes with signal {-done.returncode}"
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip() or None


def main() -> int:
    parser = argparse.ArgumentParser(description="Which planted faults of the CPU kernels does the kit see?")
    parser.add_argument("--isa", default="v3", help="the instruction set of mutants that name none (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose operator, file or text contains it")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if any(options.only in text for text in (m.op, m.file, m.old))]
    builds: dict[str, Build | None] = {}

    def build_for(mutant: Mutant) -> Build | None:
        for isa in (options.isa, *mutant.isa):
            if isa in (mutant.isa or (options.isa,)):
                if isa not in builds:
                    found = Build.of(isa)
                    builds[isa] = found if found.runs_here() else None
                if builds[isa] is not None:
                    return builds[isa]
        return None

    pairs = [(m, build_for(m)) for m in chosen]
    runnable = [(m, b) for m, b in pairs if b is not None]
    for isa in {b.isa for _, b in runnable}:
        build = builds[isa]
        assert build is not None
        for op in sorted({m.op for m, b in runnable if b is build}):
            finding = seen(build.library(None), op, threads=True)
            if finding is not None:
                raise Misfit(f"{op} fails without a fault ({isa}): {finding}")

    def examine(pair: tuple[Mutant, Build]) -> bool:
        mutant, build = pair
        finding = seen(build.library(mutant), mutant.op, mutant.threads)
        what = f"{mutant.op}: {mutant.file}: {mutant.old.strip()} -> {mutant.new.strip()}"
        print(f"{'' if finding else 'MISSED '}{what}\n    {finding or ''}", flush=True)
        return finding is not None

    with ThreadPoolExecutor(options.jobs) as pool:
        caught = sum(pool.map(examine, runnable))
    skipped = len(pairs) - len(runnable)
    print(f"{caught} of {len(runnable)} mutants were seen ({100 * caught / max(len(runnable), 1):.1f} %)", end="")
    print(f"; {skipped} need a processor that this is not" if skipped else "")
    return int(caught < LEAST * len(runnable))


if __name__ == "__main__":
    sys.exit(main())
