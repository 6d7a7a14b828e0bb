"""The C++ layer: each header alone in each standard, programs in both faces of errors, misuse that does not compile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from toolchain import HERE, Toolchain, execute, run

from infiniop.operators import all_operators

STANDARDS = ("c++17", "c++20", "c++23")
STRICT = ("-Wpedantic", "-Wconversion", "-Wshadow")


def headers(toolchain: Toolchain) -> list[str]:
    return sorted(p.relative_to(toolchain.include).as_posix() for p in toolchain.include.rglob("*.hpp"))


def syntax(toolchain: Toolchain, sources: list[Path], standard: str, clang: bool = False):
    compiler, *flags = toolchain.compiler(True, standard)
    return run(["clang++" if clang else compiler, *flags, *STRICT, "-fsyntax-only", *sources])


@pytest.mark.parametrize("clang", [False, True], ids=["gcc", "clang"])
@pytest.mark.parametrize("standard", [STANDARDS[0], *(pytest.param(s, marks=pytest.mark.full) for s in STANDARDS[1:])])
def test_each_header_compiles_alone(toolchain: Toolchain, tmp_path: Path, standard: str, clang: bool):
    if clang and shutil.which("clang++") is None:
        pytest.skip("clang++ is not installed")
    sources = []
    for header in headers(toolchain):
        source = tmp_path / f"{header.replace('/', '_')}.cpp"
        source.write_text(f"#include <{header}>\n#include <{header}>\n")
        sources.append(source)
    assert len(sources) > len(all_operators())
    done = syntax(toolchain, sources, standard, clang)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("standard", STANDARDS)
def test_errors_as_exceptions(toolchain: Toolchain, standard: str):
    done = execute(toolchain.program("layer.cpp", STRICT, standard))
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr


@pytest.mark.parametrize("standard", STANDARDS)
def test_errors_as_values_without_exceptions(toolchain: Toolchain, standard: str):
    flags = [*STRICT, "-fno-exceptions", "-DNAME=main"]
    done = execute(toolchain.program("values.cpp", flags, standard))
    assert done.returncode == 0 and done.stdout == "ok\n", done.stderr
    # Without type information it compiles as well; the undefined-behaviour sanitizer could not run that.
    output = toolchain.folder / f"values_without_rtti{standard}.o"
    toolchain.compile(output, [HERE / "programs" / "values.cpp"], [*flags, "-fno-rtti", "-c"], standard)


def test_parts_in_different_standards_link(toolchain: Toolchain, tmp_path: Path):
    """A Result is another type in each part, so that none of their functions may be taken for one another's."""
    objects = []
    for standard in STANDARDS:
        flags = ["-c", "-O0", f"-DNAME=values{standard.removeprefix('c++')}"]
        output = tmp_path / f"{standard}.o"
        objects.append(toolchain.compile(output, [HERE / "programs" / "values.cpp"], flags, standard))
    for i, order in enumerate((objects, objects[::-1])):
        program = tmp_path / f"program{i}"
        toolchain.compile(program, [HERE / "programs" / "standards.cpp"], [*map(str, order), *toolchain.libraries])
        done = execute(program)
        assert done.returncode == 0 and done.stdout == "ok\n" * len(STANDARDS), done.stderr


MISUSE = {
    "const output": ("const float x[1] = {}; infiniop::relu({x, {1}}, {x, {1}});", "could not convert|no matching"),
    "unknown element type": ("struct Odd {} x[1]; infiniop::ConstTensor(x, {1});", "dtype_of<"),
    "pointer as stream": ("float x; infiniop::relu({&x, {1}}, {&x, {1}}, {&x});", "could not convert|no known conver"),
    "forgotten result": ("float x; infiniop::relu(infiniop::nothrow, {&x, {1}}, {&x, {1}});", "nodiscard"),
    "two owners": ("infiniop::Stream a; infiniop::Stream b = a;", "deleted"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_does_not_compile(toolchain: Toolchain, tmp_path: Path, name: str):
    code, message = MISUSE[name]
    source = tmp_path / "misuse.cpp"
    source.write_text(f"#include <infiniop.hpp>\nvoid misuse() {{ {code} }}\n")
    done = syntax(toolchain, [source], "c++17")
    assert done.returncode != 0 and any(part in done.stderr for part in message.split("|")), done.stderr


def test_throwing_calls_need_exceptions(toolchain: Toolchain, tmp_path: Path):
    source = tmp_path / "throwing.cpp"
    source.write_text("#include <infiniop.hpp>\nvoid call(float *x) { infiniop::relu({x, {1}}, {x, {1}}); }\n")
    done = run([*toolchain.compiler(True), "-fno-exceptions", "-c", source, "-o", tmp_path / "object"])
    assert done.returncode != 0 and "give infiniop::nothrow as first argument" in done.stderr, done.stderr


@pytest.mark.parametrize("name", all_operators())
def test_every_operator_has_a_class_and_a_function(toolchain: Toolchain, name: str):
    operator = all_operators()[name]
    text = (toolchain.include / "infiniop" / "ops" / f"{operator.header_name}pp").read_text()
    assert f"class {operator.symbol} : public Descriptor" in text and f"inline void {name}(" in text
