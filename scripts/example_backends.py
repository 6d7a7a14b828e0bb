"""Builds every package under examples/backends/ as a third party would, and runs the conformance kit on its backends.

Each is copied, built as a wheel and installed into an environment of its own. A `setup.sh` in its folder first gets
what the machine lacks; status 77 means that it cannot be had here, and the folder is skipped.

    .venv/bin/python scripts/example_backends.py [FOLDER …] [-- options of the kit]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from scratch_venv import make

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "backends"
UNAVAILABLE = 77


def names(package: Path) -> list[str]:
    """The backends that its entry points bring."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    return sorted(project["entry-points"]["infiniop.backends"])


def available(package: Path) -> bool:
    """Whether the machine has, or now has, what the package needs."""
    setup = package / "setup.sh"
    if not setup.exists():
        return True
    status = subprocess.run(["bash", setup]).returncode
    if status not in (0, UNAVAILABLE):
        raise subprocess.CalledProcessError(status, str(setup))
    return status == 0


def check(package: Path, options: list[str], folder: Path) -> None:
    """Raises CalledProcessError when it does not build, or the kit or its own tests fail."""
    copy = shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("build", "dist", "*.egg-info"))
    commands = make(folder / "venv")
    env = os.environ | {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}"}
    run = lambda *command: subprocess.run(command, cwd=copy, env=env, check=True)  # noqa: E731
    run("pip", "install", "-q", "--no-build-isolation", "--no-deps", ".")
    xfails = ["--xfails", "expected-failures.txt"] if (copy / "expected-failures.txt").exists() else []
    for name in names(copy):
        run("pytest", "-q", "--pyargs", "infiniop.conformance", "--backend", name, *xfails, *options)
    if (copy / "tests").is_dir():
        run("pytest", "-q", "tests")


def main(arguments: list[str]) -> int:
    split = arguments.index("--") if "--" in arguments else len(arguments)
    wanted, options = arguments[:split], arguments[split + 1 :]
    packages = [Path(f).resolve() for f in wanted] or sorted(p.parent for p in EXAMPLES.glob("*/pyproject.toml"))
    for package in packages:
        print(f"-- {package.name}", flush=True)
        if not available(package):
            print(f"{package.name}: skipped", flush=True)
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(package, options, Path(folder))
            except subprocess.CalledProcessError as error:
                print(f"{package.name}: failed: {error}", file=sys.stderr)
                return 1
        print(f"{package.name}: {', '.join(names(package))} in {time.monotonic() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
