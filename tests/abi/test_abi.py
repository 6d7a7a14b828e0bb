"""The C ABI as a C or C++ program sees it: headers, symbols, and programs that run against the installed libraries."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from toolchain import HERE, SOURCES, Toolchain, execute, run

ABI = json.loads((SOURCES / "operators" / "infinicore_abi.json").read_text())


def headers(toolchain: Toolchain) -> list[str]:
    """The public headers; those below `schema/` are C++ for kernel authors."""
    found = (p.relative_to(toolchain.include).as_posix() for p in toolchain.include.rglob("*.h"))
    return sorted(h for h in found if not h.startswith("infiniop/schema/"))


@pytest.mark.parametrize("cplusplus", [False, True], ids=["c11", "c++17"])
def test_each_header_compiles_alone(toolchain: Toolchain, tmp_path: Path, cplusplus: bool):
    sources = []
    for header in headers(toolchain):
        source = tmp_path / f"{header.replace('/', '_')}.{'cpp' if cplusplus else 'c'}"
        source.write_text(f"#include <{header}>\n#include <{header}>\ntypedef int not_empty;\n")
        sources.append(source)
    assert len(sources) > 20
    done = run([*toolchain.compiler(cplusplus), "-Wpedantic", "-fsyntax-only", *sources])
    assert done.returncode == 0, done.stderr


def test_signatures_are_infinicores(toolchain: Toolchain, tmp_path: Path):
    """Declared once more as the ABI says, every function must have the same type."""
    lines = [f"#include <{header}>" for header in headers(toolchain)]
    for name, function in ABI["functions"].items():
        lines.append(f"infiniStatus_t {name}({', '.join(function['params']) or 'void'});")
    source = tmp_path / "signatures.c"
    source.write_text("\n".join(lines) + "\n")
    done = run([*toolchain.compiler(False), "-fsyntax-only", source])
    assert done.returncode == 0, done.stderr


def test_enums_are_infinicores(toolchain: Toolchain, tmp_path: Path):
    lines = [f"#include <{header}>" for header in headers(toolchain)]
    for values in ABI["enums"].values():
        lines += [f'_Static_assert({name} == {value}, "{name}");' for name, value in values.items()]
    source = tmp_path / "enums.c"
    source.write_text("\n".join(lines) + "\n")
    done = run([*toolchain.compiler(False), "-fsyntax-only", source])
    assert done.returncode == 0, done.stderr


def exported(library: Path) -> set[str]:
    lines = run(["nm", "-D", "--defined-only", library]).stdout.splitlines()
    return {line.split()[-1] for line in lines}


@pytest.mark.parametrize("library", ["infinirt", "infiniccl", "infiniop"])
def test_symbols_are_where_a_program_looks_for_them(toolchain: Toolchain, library: str):
    symbols = exported(toolchain.lib / f"lib{library}.so")
    expected = {name for name in ABI["functions"] if re.match(r"infini(rt|ccl|op)", name)[0] == library}  # type: ignore[index]
    assert len(expected) > 10
    assert expected <= symbols
    foreign = {s for s in symbols if re.match(r"infini(rt|ccl|op)[A-Z]", s) and not s.startswith(library)}
    assert not foreign


def test_what_is_new_is_exported(toolchain: Toolchain):
    declared = set()
    for header in ("registry.h", "handle.h", "operator_descriptor.h"):
        declared |= set(re.findall(r"\b(infiniop[A-Z]\w+)\(", (toolchain.include / "infiniop" / header).read_text()))
    assert declared <= exported(toolchain.lib / "libinfiniop.so")
    assert {"infinirtGraphLaunch", "infinirtStreamIsCapturing"} <= exported(toolchain.lib / "libinfinirt.so")


@pytest.mark.parametrize(
    "name", ["paged_caching.c", "paged_caching.cpp", "runtime.c", "graph.c", "native_graph.cpp", "threads.cpp"]
)
def test_program(toolchain: Toolchain, name: str):
    done = execute(toolchain.program(name))
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr


def test_plugins_good_and_ill(toolchain: Toolchain, plugins: Path):
    done = execute(toolchain.program("registry.c"), plugins)
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr


def test_schema_interpreter(toolchain: Toolchain):
    """The interpreter on a schema made by hand, with the core's sources compiled in."""
    core = SOURCES / "infiniop" / "core"
    sources = [HERE / "unit" / "schema.cc", *sorted((core / "op").glob("*.cc"))]
    flags = [
        f"-I{core}",
        '-DINFINIOP_VERSION="test"',
        f"-L{toolchain.lib}",
        f"-Wl,-rpath,{toolchain.lib}",
        "-linfinirt",
    ]
    done = execute(toolchain.compile(toolchain.folder / "schema", sources, flags))
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr
