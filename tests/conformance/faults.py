"""Runs the kit against the wrong backend, one fault at a time, and says which faults it saw.

    python tests/conformance/faults.py [--every] [OP/NAME …]

A fault that any operator can have is tried on one of them, with `--every` on all. Prints a line per fault, and how many
were seen.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finding import first_finding

SOURCES = Path(__file__).parent / "wrong_backend"
OPERATORS = (
    "add", "relu", "rms_norm", "add_rms_norm", "softmax", "gemm", "paged_caching", "paged_attention", "sample",
)  # fmt: skip
DEVICES = {"anywhere": "cpu", "on_streams": "lazy", "far_away": "cpu"}


@dataclass(frozen=True)
class Fault:
    """`seen`: "anywhere", "on_streams" (of a device that has some) or "far_away" (in cases of GiB)."""

    op: str
    name: str
    seen: str
    what: str

    @property
    def key(self) -> str:
        return f"{self.op}/{self.name}"


def build(folder: Path) -> Path:
    """Compile the plugin."""
    from infiniop._library import root

    flags = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    objects = [folder / f"{source.stem}.o" for source in sorted(SOURCES.glob("*.cc"))]
    for target in objects:
        source = SOURCES / f"{target.stem}.cc"
        subprocess.run(["g++", *flags, f"-I{root() / 'include'}", "-c", source, "-o", target], check=True)
    plugin = folder / "libwrong.so"
    subprocess.run(["g++", "-shared", *objects, "-Wl,--no-undefined", "-o", plugin], check=True)
    return plugin


def known(plugin: Path) -> list[Fault]:
    """What the plugin says that it can do wrong; op "*": in any operator."""
    listing = ctypes.CDLL(str(plugin)).wrong_backend_faults
    listing.restype = ctypes.c_char_p
    return [Fault(*line.split("\t")) for line in sorted(listing().decode().splitlines())]


def placed(faults: Sequence[Fault], every: bool) -> list[Fault]:
    """The faults, each with an operator: those that any can have on one after another, or on all."""
    found = []
    for number, fault in enumerate(faults):
        own = [OPERATORS[number % len(OPERATORS)]] if not every else OPERATORS
        found += [Fault(op, fault.name, fault.seen, fault.what) for op in (own if fault.op == "*" else [fault.op])]
    return found


def environment(plugin: Path, seen: str) -> dict[str, str]:
    """Of a process that has the plugin."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("INFINIOP_BACKEND", "WRONG_BACKEND"))}
    return kept | {"INFINIOP_BACKEND_PATH": str(plugin), "WRONG_BACKEND_DEVICE": DEVICES[seen]}


def backend_of(seen: str) -> str:
    return "wrong-lazy" if DEVICES[seen] == "lazy" else "wrong"


def examine(faults: Sequence[Fault]) -> None:
    """In a process of its own: prints key, seconds and finding, separated by tabs."""
    for fault in faults:
        os.environ["WRONG_BACKEND_FAULT"] = fault.key
        start = time.monotonic()
        far = fault.seen == "far_away"
        finding = first_finding(backend_of(fault.seen), fault.op, ["far *"] if far else [], far)
        print(f"{fault.key}\t{time.monotonic() - start:.2f}\t{finding or ''}", flush=True)


def findings(plugin: Path, faults: Sequence[Fault]) -> dict[str, str]:
    """What was found of each fault; missing: nothing."""
    found: dict[str, str] = {}
    for seen in dict.fromkeys(f.seen for f in faults):
        mine = [f for f in faults if f.seen == seen]
        command = [sys.executable, __file__, "--plugin", str(plugin), "--examine", *(f.key for f in mine)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(plugin, seen)) as process:
            assert process.stdout is not None
            for line in process.stdout:
                key, seconds, finding = line.rstrip("\n").split("\t", 2)
                print(f"{'' if finding else 'MISSED '}{key} ({seconds} s): {finding}", flush=True)
                if finding:
                    found[key] = finding
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Which faults of the wrong backend does the kit see?")
    parser.add_argument("faults", nargs="*", metavar="OP/NAME")
    parser.add_argument("--every", action="store_true", help="faults of any operator on all operators")
    parser.add_argument("--plugin", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--examine", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plugin = options.plugin or build(Path(folder))
        faults = placed(known(plugin), options.every or bool(options.faults))
        faults = [f for f in faults if not options.faults or f.key in options.faults]
        if options.examine:
            examine(faults)
            return 0
        found = findings(plugin, faults)
    print(f"{len(found)} of {len(faults)} faults were seen")
    return int(len(found) < len(faults))


if __name__ == "__main__":
    sys.exit(main())
