"""The generator: everything that follows from the operator files.

Committed: the C and C++ headers, the ABI lock in `registry.yaml`, the documentation pages. Built: typed C functions and
tables of the core, C++ accessors, the cffi definitions, the Python functions, the manifests of the built-in backends.
It runs from the source tree, without the compiled library.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from infiniop.operators import all_operators

from . import accessors, cffi, core, cpp, docs, headers, lock, manifests, python, torch
from .abi import Abi


def source_root() -> Path:
    """The repository: where `operators/` and `registry.yaml` lie."""
    import infiniop.operators

    root = Path(infiniop.operators.__file__).resolve().parent.parent
    if not (root / "registry.yaml").exists() or not (root / "include").exists():
        raise FileNotFoundError("only a source tree has files to derive; this is an installed package")
    return root


def committed_files(root: Path, bump: Sequence[str] = ()) -> dict[Path, str]:
    """What is derived and committed, by path."""
    operators = all_operators()
    abi = Abi.load(root)
    abi.check(operators.values())
    registry = lock.Registry.load(root / "registry.yaml").updated(operators, bump)
    files = {root / "registry.yaml": registry.text()}
    files |= {root / "include" / name: text for name, text in headers.generate(operators, abi).items()}
    files |= {root / "include" / name: text for name, text in cpp.generate(operators, abi).items()}
    files |= {root / "docs" / name: text for name, text in docs.generate(operators, registry, abi, root).items()}
    return files


def write_committed(root: Path, bump: Sequence[str] = ()) -> list[Path]:
    """Bring the committed files up to date; returns those that changed."""
    files = committed_files(root, bump)
    changed = [path for path, text in files.items() if _write(path, text)]
    for path in _orphans(root, files):
        path.unlink()
        changed.append(path)
    return changed


def check(root: Path) -> list[Path]:
    """The committed files that are stale or orphaned."""
    files = committed_files(root)
    stale = [p for p, text in files.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    return stale + _orphans(root, files)


def write_build_files(root: Path, build: Path) -> None:
    """What is derived at build, below `build`; a file whose content stays is not touched."""
    operators = all_operators()
    registry = lock.Registry.load(root / "registry.yaml").updated(operators, bump=None)
    files = {
        "core/operators.cc": core.operators(operators, registry),
        "core/stubs.cc": core.stubs(operators, Abi.load(root)),
        "infiniop/ops.py": python.generate(list(operators.values())),
        "infiniop/_torch_ops.py": torch.generate(operators.values()),
        "infiniop/_cdef.h": cffi.cdef(list(operators.values())),
        **{f"include/infiniop/schema/{n}.h": accessors.generate(o, registry) for n, o in operators.items()},
        **{f"backends.d/{name}.json": text for name, text in manifests.generate(registry).items()},
    }
    for name, text in files.items():
        _write(build / name, text)
    cffi.emit(operators, build / "_native.c")


def _write(path: Path, text: str) -> bool:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return True


def _orphans(root: Path, files: dict[Path, str]) -> list[Path]:
    """Files in wholly generated folders that nothing generates any more."""
    ops = root / "include" / "infiniop" / "ops"
    folders = [(ops, "*.h"), (ops, "*.hpp"), (root / "docs" / "operators", "*.md")]
    return [p for folder, pattern in folders for p in sorted(folder.glob(pattern)) if p not in files]
