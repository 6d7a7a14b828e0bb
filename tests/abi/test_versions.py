"""The plugin ABI between versions: plugins compiled with older, newer and other headers, and what may change."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import snapshot
from toolchain import HERE, SOURCES, Toolchain, execute, run

FROZEN = json.loads(snapshot.SNAPSHOT.read_text())
MAJOR, MINOR = FROZEN["version"]
GROWING = [
    name
    for name, struct in snapshot.current()["structs"].items()
    if struct["kind"] == "struct" and struct["fields"][0]["name"] == "struct_size"
]


def test_the_headers_are_as_frozen():
    assert snapshot.main([]) == 0, snapshot.HOW_TO_APPEND


@pytest.mark.parametrize("cplusplus", [False, True], ids=["c11", "c++17"])
def test_a_compiler_sees_the_same(toolchain: Toolchain, tmp_path: Path, cplusplus: bool):
    source = tmp_path / f"snapshot.{'cpp' if cplusplus else 'c'}"
    source.write_text(snapshot.assertions(FROZEN))
    done = run([*toolchain.compiler(cplusplus), "-fsyntax-only", source])
    assert done.returncode == 0, done.stderr


def test_the_changelog_knows_every_version():
    assert f"- {MAJOR}.{MINOR}: " in (SOURCES / "docs" / "abi.md").read_text()


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("int32_t priority;", "int64_t priority;", "infiniopBackend: field {'name': 'priority'"),
        ("uint32_t flags;", "", "infiniopBackend: field {'name': 'flags'"),
        ("(void *state, const infiniopRun *run)", "(void *state, infiniopRun *run)", "field {'name': 'calculate'"),
        ("infinirtStream_t stream;", "infinirtStream_t stream; void *more;", "the minor version is still"),
    ],
)
def test_a_changed_header_is_seen(tmp_path: Path, was: str, becomes: str, said: str):
    include = shutil.copytree(SOURCES / "include", tmp_path / "include")
    header = include / "infiniop" / "backend.h"
    assert was in header.read_text()
    header.write_text(header.read_text().replace(was, becomes))
    assert said in "\n".join(snapshot.broken(FROZEN, snapshot.current(include)))


@pytest.mark.parametrize("name", sorted(FROZEN["structs"]))
def test_only_appending_is_allowed(name: str):
    """Whatever else one does to a struct is seen; appending is allowed in the next minor version."""
    new = copy.deepcopy(FROZEN)
    struct = new["structs"][name]
    extra = {"name": "extra", "type": "void *", "offset": struct["size"], "size": 8}
    grown = struct | {"fields": [*struct["fields"], extra], "size": struct["size"] + 8}
    next_minor = {"version": [MAJOR, MINOR + 1]}

    def verdict(changed: dict | None, version: dict | None = None) -> list[str]:
        structs = {k: v for k, v in new["structs"].items() if k != name} | ({name: changed} if changed else {})
        return list(snapshot.broken(FROZEN, new | {"structs": structs} | (version or next_minor)))

    assert verdict(struct) == []
    assert bool(verdict(grown)) == (name not in GROWING)
    assert verdict(grown, {"version": [MAJOR, MINOR]}), "without a new minor version"
    assert verdict(grown, {"version": [MAJOR + 1, 0]}) == [], "another major version owes nothing"
    assert verdict(None) == [f"{name} is gone"]
    assert verdict(struct | {"fields": struct["fields"][:-1]})
    assert verdict(struct | {"fields": [*struct["fields"], extra | {"offset": struct["size"] - 4}]}), "in the padding"
    for field in ("name", "type", "offset", "size"):
        last = struct["fields"][-1] | {field: "other"}
        assert verdict(struct | {"fields": [*struct["fields"][:-1], last]}), field


@pytest.mark.parametrize("kind", ["enums", "pointers", "functions", "macros"])
def test_names_and_values_stay(kind: str):
    name = next(iter(FROZEN[kind]))
    for changed in ({name: {} if kind == "enums" else "other"}, {}):
        values = {k: v for k, v in FROZEN[kind].items() if k != name} | changed
        assert list(snapshot.broken(FROZEN, FROZEN | {kind: values, "version": [MAJOR, MINOR + 1]}))


# ---- plugins of other versions ---------------------------------------------------------------------------------------

Change = Callable[[str], str]


@pytest.fixture
def plugin(toolchain: Toolchain, tmp_path: Path):
    """Compile versioned.c against changed headers; gives the library."""

    def make(change: Change, *flags: str) -> Path:
        include = tmp_path / "include"
        shutil.copytree(SOURCES / "include", include)
        header = include / "infiniop" / "backend.h"
        changed = change(header.read_text())
        header.write_text(re.sub(r"^INFINIOP_FROZEN\(.*\n", "", changed, flags=re.M))
        made = Toolchain(tmp_path, tmp_path)
        every = ["-shared", "-fPIC", "-fvisibility=hidden", *flags]
        return made.compile(tmp_path / "libversioned.so", [HERE / "plugins" / "versioned.c"], every)

    return make


def version(major: int, minor: int) -> Change:
    def change(text: str) -> str:
        text = re.sub(r"(#define INFINIOP_BACKEND_ABI_MAJOR) \d+", rf"\1 {major}", text)
        return re.sub(r"(#define INFINIOP_BACKEND_ABI_MINOR) \d+", rf"\1 {minor}", text)

    return change


def appended(text: str) -> str:
    """Two more fields in every struct of the header."""
    for name in GROWING:
        text = re.sub(rf"\n}} {name};", f"\n    void *more;\n    size_t still_more;\n}} {name};", text)
    assert text.count("still_more") >= 8
    return text


def shortened(text: str) -> str:
    """Structs end before the members that a backend may leave out, and before the last ones that it only reads."""
    cuts = {
        "infiniopKernel": ("void (*destroy)", "void *ctx;"),
        "infiniopRun": ("infinirtStream_t stream;",),
    }
    for name, fields in cuts.items():
        body = re.search(rf"typedef struct {name} {{.*?\n}} {name};", text, re.S)
        assert body is not None
        lines = [line for line in body[0].splitlines() if not line.strip().startswith(fields)]
        assert len(lines) == len(body[0].splitlines()) - len(fields)
        text = text.replace(body[0], "\n".join(lines))
    return text


def load(toolchain: Toolchain, library: Path):
    return execute(toolchain.program("relu.c"), library, "versioned")


def test_the_same_version(toolchain: Toolchain, plugin):
    assert load(toolchain, plugin(lambda text: text)).stdout == "ok\n"


def test_an_older_plugin_with_shorter_structs(toolchain: Toolchain, plugin):
    done = load(toolchain, plugin(shortened, "-DSHORT=1"))
    assert done.stdout == "ok\n", done.stderr


@pytest.mark.skipif(MAJOR == 0, reason="nothing is frozen yet")
def test_a_plugin_of_the_first_version(toolchain: Toolchain, plugin):
    assert load(toolchain, plugin(version(MAJOR, 0))).stdout == "ok\n"


def test_a_newer_plugin_with_longer_structs(toolchain: Toolchain, plugin):
    """The host ignores what it does not know; the plugin sees that the host does not have it."""
    done = load(toolchain, plugin(lambda text: version(MAJOR, MINOR + 7)(appended(text)), "-DMORE=1"))
    assert done.stdout == "ok\n", done.stderr


@pytest.mark.parametrize("major", sorted({0, 1, 2, 77} - {MAJOR}))
@pytest.mark.parametrize("change", [lambda text: text, appended, shortened], ids=["same", "longer", "shorter"])
def test_another_major_version_is_refused_by_name(toolchain: Toolchain, plugin, major: int, change: Change):
    flags = {appended: ["-DMORE=1"], shortened: ["-DSHORT=1"]}.get(change, [])
    done = load(toolchain, plugin(lambda text: version(major, 3)(change(text)), *flags))
    assert done.returncode == 1
    assert f"built for plugin ABI {major}.3, this library speaks {MAJOR}.{MINOR}" in done.stderr
