#!/usr/bin/env python3
"""What a machine with an NVIDIA GPU must show: build, conformance, compute-sanitizer, figures.

    scripts/nvidia.py [--skip build conformance sanitizer device bench]

Run it with the Python of the development environment (`make test` sets one up). Ends with 1 when a step failed.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
KIT = [sys.executable, "-m", "pytest", "-q", "-p", "infiniop.conformance.entry", "--pyargs", "infiniop.conformance"]
KIT += ["--backend", "nvidia"]
SAMPLES_PER_OPERATOR = 3  # under a sanitizer, which makes kernels slower by orders of magnitude


def run(command: list[str]) -> bool:
    print("$", " ".join(command), flush=True)
    return subprocess.run(command, cwd=ROOT).returncode == 0


def build() -> bool:
    return run(["make", "build"])


def conformance() -> bool:
    """Every sample and error sample of every operator, then the error samples again in checked mode."""
    return run(KIT) and run(["env", "INFINIOP_CHECKED=1", *KIT, "--case", "error"])


def short_selection() -> Iterator[tuple[str, list[str]]]:
    """Operators, and some of their small samples, spread over all of them."""
    import numpy as np

    from infiniop.conformance import runner
    from infiniop.conformance.subject import subject
    from infiniop.operators import all_operators

    tested = subject("nvidia")
    for name, operator in all_operators().items():
        if tested.has(name):
            samples = [s for s in operator.samples(np.random.default_rng(1)) if "large" not in s.tags]
            names = [s.name for s in samples if 64 < runner.elements(s) < 20_000]
            every = max(1, len(names) // SAMPLES_PER_OPERATOR)
            yield name, list(itertools.islice(names[::every], SAMPLES_PER_OPERATOR))


def sanitizer() -> bool:
    """memcheck and racecheck: one process per tool and operator."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        print("compute-sanitizer is missing (it comes with the CUDA toolkit)")
        return False
    clean = True
    for operator, names in short_selection():
        chosen = [word for name in names for word in ("--case", f"sample {name}")]
        for check in ("memcheck", "racecheck"):
            clean &= run([tool, "--tool", check, "--error-exitcode", "9", *KIT, "--op", operator, *chosen])
    return clean


def device() -> bool:
    """Streams, graphs, torch, pycuda and the engine on the device itself."""
    return run([sys.executable, "-m", "pytest", "-q", "-rs", "tests/nvidia"])


def bench() -> bool:
    return run([sys.executable, "scripts/nvidia_bench.py"])


STEPS = (build, conformance, sanitizer, device, bench)


def main() -> int:
    names = [step.__name__ for step in STEPS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip", nargs="+", choices=names, default=[], help="steps to leave out")
    left_out = parser.parse_args().skip
    failed = []
    for step in STEPS:
        if step.__name__ not in left_out:
            print(f"== {step.__name__}", flush=True)
            if not step():
                failed.append(step.__name__)
    print("failed: " + ", ".join(failed) if failed else "all steps passed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
