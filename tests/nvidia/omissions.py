"""Leaves out one barrier or wait of the kernels at a time, on the emulator, and says which ones nobody misses.

    python tests/nvidia/omissions.py [TEXT]

The places are those that the operators' samples meet (tests/nvidia/emulator/omissions.cc), by the line of the source
file; with TEXT, only those whose line contains it. A wait for asynchronous copies is also made to end one group too
early. Ends with 1 if an omission that is not in UNSEEN changes nothing.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from emulation import ROOT, library, tool

from infiniop import registry
from infiniop.conformance import runner
from infiniop.conformance.call import Declined
from infiniop.conformance.subject import subject
from infiniop.operators import all_operators
from infiniop.schema import BF16, F32, Operator, Sample

KERNELS = ROOT / "backends" / "nvidia"
SELECTION = ((0, 1 << 14, 40), (1 << 14, 1 << 18, 10))  # elements in a sample: from, below; samples of an operator
OMIT, MET = "INFINIOP_EMULATOR_OMIT", "INFINIOP_EMULATOR_MET"
Case = tuple[Operator, Sample]

# Lines whose omission no sample shows, and why they stay.
UNSEEN = {"if (__syncthreads_or(bad_table(": "a vote that orders nothing; test_nvidia_attention.py has bad tables"}


@dataclass
class Site:
    """A line of a kernel with a barrier or a wait; the compiler made several places of it."""

    file: Path
    line: int
    places: list[str] = field(default_factory=list)
    cases: dict[int, Case] = field(default_factory=dict)  # that come by

    @property
    def text(self) -> str:
        return self.file.read_text().splitlines()[self.line - 1].strip()

    def omissions(self) -> Iterator[tuple[str, str]]:
        """What is left out, and how the emulator is told."""
        yield "without", ",".join(self.places)
        if "copy_async_wait" in self.text:
            yield "one group less for", ",".join(f"{place}+" for place in self.places)


def made() -> Iterator[Case]:
    """What the selection of samples does not reach: keys divided among blocks, a long row's largest in any order."""
    attention: Any = importlib.import_module("infiniop.operators.paged_attention")
    topk: Any = importlib.import_module("infiniop.operators.topk")
    rng = np.random.default_rng(0)
    for dtype in (BF16, F32):
        tensors = attention._arguments(rng, dtype, [600, 1, 257], 16, 1, 576, 16, dv=512)
        yield all_operators()["paged_attention"], Sample("divided", tensors, {"scale": 576**-0.5})
        yield all_operators()["topk"], topk._sample(rng, "long", dtype, (2, 5000), 100, 1, sorted=False)


def cases() -> Iterator[Case]:
    yield from made()
    for operator in all_operators().values():
        if subject("emulator").has(operator.name):
            every = [s for s in operator.samples(np.random.default_rng(1)) if "large" not in s.tags]
            for least, limit, count in SELECTION:
                chosen = [s for s in every if least <= runner.elements(s) < limit]
                for sample in chosen[:: max(1, len(chosen) // count)]:
                    yield operator, sample


def fails(case: Case) -> bool:
    try:
        return any(True for _ in runner.run_sample(*case, "emulator"))
    except Declined:
        return False


def lines(places: list[str]) -> dict[str, tuple[Path, int]]:
    """Of each place, the innermost line of the backend that is no wrapper of an instruction."""
    command = [tool("addr2line"), "-iae", str(library())]
    found: dict[str, tuple[Path, int]] = {}
    place = ""
    for line in subprocess.run([*command, *places], capture_output=True, text=True, check=True).stdout.splitlines():
        if line.startswith("0x"):
            place = f"{int(line, 16):x}"
            continue
        name, _, number = line.partition(" ")[0].rpartition(":")
        file = Path(os.path.normpath(library().parent / name))
        if place not in found and file.is_relative_to(KERNELS) and file.name != "mma.cuh":
            found[place] = file, int(number)
    return found


def sites() -> list[Site]:
    by_place: dict[str, dict[int, Case]] = defaultdict(dict)
    for number, case in enumerate(cases()):
        with tempfile.NamedTemporaryFile() as file:
            os.environ[MET] = f"{file.name}"
            assert not fails(case), f"{case[0].name}, {case[1].name} fails as it is"
            del os.environ[MET]
            for place in file.read().decode().split():
                by_place[place][number] = case
    by_line: dict[tuple[Path, int], Site] = {}
    for place, line in lines(list(by_place)).items():
        site = by_line.setdefault(line, Site(*line))
        site.places.append(place)
        site.cases |= by_place[place]
    return [by_line[line] for line in sorted(by_line)]


def unmet(met: list[Site]) -> list[str]:
    """The lines with a barrier or a wait that no sample came by."""
    known = {(site.file, site.line) for site in met}
    found = []
    for file in sorted(KERNELS.rglob("*.cu*")):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if re.search(r"__sync(threads|warp)\w*\(|copy_async_wait<.*>\(\);", line) and (file, number) not in known:
                found.append(f"{file.name}:{number}: {line.strip()}")
    return found


def noticed(site: Site, omission: str) -> bool:
    """In a process of its own: without a barrier an index may lie anywhere."""
    child = os.fork()
    if child == 0:
        os.environ[OMIT] = omission
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os._exit(any(fails(case) for case in site.cases.values()))
    return os.waitpid(child, 0)[1] != 0


def main() -> int:
    registry.load_backend(library())
    met = sites()
    chosen = [site for site in met if sys.argv[1:2] == [] or sys.argv[1] in f"{site.file.name}: {site.text}"]
    tried, missed = 0, len(unmet(met))
    print("\n".join(f"{line}: NOT MET" for line in unmet(met)))
    for site in chosen:
        for what, omission in site.omissions():
            seen = noticed(site, omission)
            excuse = next((why for text, why in UNSEEN.items() if text in f"{site.file.name}: {site.text}"), "")
            tried, missed = tried + 1, missed + (not seen and not excuse)
            verdict = "seen" if seen else f"unseen, as it should be: {excuse}" if excuse else "MISSED"
            print(f"{site.file.name}:{site.line}: {what} {site.text}: {verdict}", flush=True)
    print(f"{tried} omissions; {missed} missed or not met")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
