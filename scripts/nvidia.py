#!/usr/bin/env python3
"""What a machine with an NVIDIA GPU must show, most valuable first: the tests of the device, conformance of every
operator, the table of figures, compute-sanitizer.

    scripts/nvidia.py [STEP ...] [--wheels FOLDER] [--out FOLDER] [--minutes N] [--jobs N] [--op NAME ...]

Everything runs in processes of its own, each with a time limit: a kernel that breaks the device's context, or hangs,
costs its own piece only. What is known is in FOLDER/summary.txt at once, what failed with its output in
FOLDER/log.txt, figures in FOLDER/figures.json. After N minutes nothing new begins. Ends with 1 when a piece failed or
was not reached. A machine without network gets its packages by `wheels` (docs/nvidia.md).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KIT = [sys.executable, "-m", "pytest", "-q", "-p", "infiniop.conformance.entry", "--pyargs", "infiniop.conformance"]
KIT += ["--backend", "nvidia"]
SAMPLES_PER_OPERATOR = 3  # under a sanitizer, which makes kernels slower by orders of magnitude
CHECKS = ("memcheck", "racecheck")
FEW_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "INFINIOP_NUM_THREADS"), "2")


@dataclass(frozen=True)
class Piece:
    """One process. `seconds`: after so many it is ended."""

    name: str
    command: list[str]
    seconds: int
    environment: dict[str, str] = field(default_factory=dict)


class Runner:
    """Runs pieces and writes down what became of them."""

    def __init__(self, out: Path, minutes: float, jobs: int, environment: dict[str, str]):
        self.out, self.jobs, self.environment = out, jobs, environment
        self.end = time.monotonic() + 60 * minutes
        self.failed: list[str] = []
        self.lock = threading.Lock()
        out.mkdir(parents=True, exist_ok=True)

    def say(self, line: str) -> None:
        with self.lock:
            print(line, flush=True)
            with open(self.out / "summary.txt", "a") as summary:
                print(line, file=summary)

    def together(self, pieces: Iterable[Piece]) -> None:
        """Several at a time: the device is shared, so that nothing may be timed."""
        few = (replace(piece, environment={**FEW_THREADS, **piece.environment}) for piece in pieces)
        with ThreadPoolExecutor(self.jobs) as pool:
            list(pool.map(self.run, few))

    def run(self, piece: Piece) -> str:
        """What it printed."""
        left = self.end - time.monotonic()
        if left < 5:
            self.note(piece, "not reached", "")
            return ""
        began = time.monotonic()
        environment = {**self.environment, **piece.environment}
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = subprocess.Popen(
                piece.command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(min(left, piece.seconds))
                outcome = "passed" if code == 0 else f"failed ({code})"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)  # what it started, too
                process.wait()
                outcome = "ran out of time"
            output.seek(0)
            text = output.read()
        self.note(piece, outcome, text, time.monotonic() - began)
        return text

    def note(self, piece: Piece, outcome: str, text: str, seconds: float = 0.0) -> None:
        counted = re.findall(r"^=*\s*(\d+ (?:passed|failed|skipped|error).*?)\s*=*$", text, re.MULTILINE)
        self.say(f"{piece.name:50} {outcome:16} {seconds:6.1f} s  {counted[-1] if counted else ''}".rstrip())
        if outcome != "passed":
            with self.lock:
                self.failed.append(piece.name)
                with open(self.out / "log.txt", "a") as log:
                    print(f"== {piece.name}: {outcome}\n$ {' '.join(piece.command)}\n{text[-20_000:]}", file=log)


# ---- what runs ----------------------------------------------------------------------------------------------------


def claimed(only: list[str]) -> list[str]:
    """Operators of the backend, by name."""
    from infiniop.conformance.subject import subject
    from infiniop.operators import all_operators

    return [name for name in all_operators() if subject("nvidia").has(name) and (not only or name in only)]


def device(runner: Runner, only: list[str]) -> None:
    """Streams, graphs, attention, products, torch, array interfaces and the engine on the device itself."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-rs", "--on", "nvidia"]
    files = sorted(p.name for p in (ROOT / "tests/nvidia").glob("test_*.py"))
    runner.together(Piece(f"tests/nvidia/{name}", [*pytest, f"tests/nvidia/{name}"], 240) for name in files)


def conformance(runner: Runner, only: list[str]) -> None:
    """The whole kit, an operator at a time; error samples in checked mode; leaks alone: they look at free memory."""
    names, checked = claimed(only), {"INFINIOP_CHECKED": "1"}
    kit = [*KIT, "-k", "not leaks"]
    runner.together(Piece(f"conformance {name}", [*kit, "--op", name], 240) for name in names)
    kit = [*KIT, "--case", "error"]
    runner.together(Piece(f"conformance {name}, checked", [*kit, "--op", name], 60, checked) for name in names)
    chosen = [word for name in only for word in ("--op", name)]
    runner.run(Piece("conformance, leaks", [*KIT, "--case", "state leaks", *chosen], 240))


def bench(runner: Runner, only: list[str]) -> None:
    """A figure at a time, alone on the device."""
    script, rows = [sys.executable, "scripts/nvidia_bench.py"], []
    listed = subprocess.run([*script, "--list"], cwd=ROOT, env=runner.environment, capture_output=True, text=True)
    for name in listed.stdout.split():
        found = runner.out / "figure.json"
        runner.say(runner.run(Piece(f"bench {name}", [*script, name, "--json", str(found)], 300)).rstrip())
        if found.exists():
            rows += [json.loads(found.read_text())]
            found.unlink()
            (runner.out / "figures.json").write_text(json.dumps(rows, indent=1))


def sanitizer(runner: Runner, only: list[str]) -> None:
    """memcheck and racecheck over a few small samples of every operator."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        runner.note(Piece("sanitizer", ["compute-sanitizer"], 0), "missing", "it comes with the CUDA toolkit")
        return
    samples = [sys.executable, "tests/nvidia/sanitized.py", "nvidia", str(SAMPLES_PER_OPERATOR)]
    runner.together(
        Piece(f"{check} {name}", [tool, "--tool", check, "--error-exitcode", "9", *samples, name], 180)
        for check in CHECKS
        for name in claimed(only)
    )


STEPS = {step.__name__: step for step in (device, conformance, bench, sanitizer)}


# ---- infiniop itself ------------------------------------------------------------------------------------------------


def requirements() -> list[str]:
    """What the steps need beside infiniop, without versions of their own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["lm"], *extras["conformance"]]


def wheels(folder: Path, python: str, only: list[str]) -> None:
    """Fill the folder with infiniop, built here (it serves every CPython from 3.11 on), and with the packages it needs
    on a Python of that version, or only those named."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    shutil.rmtree(folder, ignore_errors=True)
    build = ["--no-build-isolation", "--no-deps", f"-Cbuild-dir={ROOT}/build/wheel"]
    subprocess.run([*pip, "wheel", *build, "-w", folder, ROOT], check=True)
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for version in ("manylinux_2_28", "manylinux_2_17", "manylinux2014"):
        target += ["--platform", f"{version}_x86_64"]
    wanted = ["--no-deps", *only] if only else requirements()
    subprocess.run([*pip, "download", *target, "-d", folder, *wanted], check=True)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
    print(f"{len(list(folder.iterdir()))} wheels, {size:.0f} MiB, in {folder}")


def install(folder: Path) -> Path:
    """infiniop, and of the other wheels what this Python lacks, in a folder for PYTHONPATH. Needs no network."""
    site = Path(tempfile.gettempdir()) / "infiniop-site"
    chosen = []
    for path in sorted(folder.glob("*.whl")):
        name = path.name.split("-")[0]
        try:
            importlib.metadata.distribution(name)
            known = name != "infiniop"
        except importlib.metadata.PackageNotFoundError:
            known = False
        if not known:
            chosen.append(str(path))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-index", "--no-deps"]
    shutil.rmtree(site, ignore_errors=True)
    subprocess.run([*pip, "--target", str(site), *chosen], check=True)
    return site


def libraries() -> Iterator[tuple[str, str]]:
    """NVIDIA's libraries in packages of this Python, for a backend that lies elsewhere."""
    for variable, pattern in (("INFINIOP_CUBLASLT", "libcublasLt.so.1[23]"), ("INFINIOP_NCCL", "libnccl.so.2")):
        found = [path for entry in sys.path if entry for path in Path(entry).glob(f"nvidia/*/lib/{pattern}")]
        if found and variable not in os.environ:
            yield variable, str(max(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)} (all), or wheels")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="run infiniop from these, instead of this tree's")
    parser.add_argument("--out", type=Path, default=ROOT / "build/nvidia", metavar="FOLDER", help="for the results")
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="when to stop")
    parser.add_argument("--jobs", type=int, default=max(1, len(os.sched_getaffinity(0)) // 2), metavar="N")
    parser.add_argument("--op", action="append", default=[], metavar="NAME", help="only this operator")
    parser.add_argument("--python", default="3.12", metavar="VERSION", help="wheels: of the machine that they are for")
    parser.add_argument("--only", nargs="+", default=[], metavar="PACKAGE", help="wheels: what that machine lacks")
    options = parser.parse_args()
    if options.steps == ["wheels"]:
        wheels(options.wheels or ROOT / ".wheels", options.python, options.only)
        return 0
    if unknown := [step for step in options.steps if step not in STEPS]:
        parser.error(f"no step {', '.join(unknown)}; there are {', '.join(STEPS)} and wheels")
    environment = {**os.environ, **dict(libraries()), "PYTHONSAFEPATH": "1"}  # this tree's infiniop/ is only a source
    if options.wheels:
        site = str(install(options.wheels))
        sys.path.insert(0, site)
        environment["PYTHONPATH"] = os.pathsep.join([site, *filter(None, [os.environ.get("PYTHONPATH")])])
    elif Path(sys.prefix) == ROOT / ".venv":
        subprocess.run(["make", "build"], cwd=ROOT, check=True)
    runner = Runner(options.out, options.minutes, options.jobs, environment)
    runner.run(Piece("what is here", [sys.executable, "-m", "infiniop", "backends"], 120))
    from infiniop import runtime

    if runtime.device_count("nvidia") == 0:
        runner.say("there is no NVIDIA device here")
        return 1
    for step in options.steps or STEPS:
        runner.say(f"== {step}")
        STEPS[step](runner, options.op)
    runner.say("failed: " + ", ".join(runner.failed) if runner.failed else "all passed")
    return bool(runner.failed)


if __name__ == "__main__":
    sys.exit(main())
