"""The C ABI as data, and what may change in it.

`snapshot.json` is the ABI as it was frozen. `python tests/abi/snapshot.py` compares the headers with it; with
`--append` it writes down what was appended, in a new minor version, and refuses everything else.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cffi

from infiniop.gen.cffi import declarations

HERE = Path(__file__).parent
INCLUDE = HERE.parents[1] / "include"
SNAPSHOT = HERE / "snapshot.json"
# Everything public but the operators, which `registry.yaml` locks.
HEADERS = (
    "infinicore.h", "infiniop/enums.h", "infinirt.h", "infiniccl.h", "infiniop/backend.h", "infiniop/handle.h",
    "infiniop/tensor_descriptor.h", "infiniop/operator_descriptor.h", "infiniop/registry.h", "infiniop/verify.h",
)  # fmt: skip
HOW_TO_APPEND = """\
Only additions are allowed: fields at the end of a struct that begins with struct_size, enum values, functions, macros.
To make one:
  1. append the field to include/infiniop/backend.h, with what its absence means, and its INFINIOP_FROZEN line;
  2. raise INFINIOP_BACKEND_ABI_MINOR and write a line into the changelog of docs/abi.md;
  3. python tests/abi/snapshot.py --append
Everything else is another major version, which no existing plugin can be loaded into."""

Snapshot = dict[str, Any]


def current(include: Path = INCLUDE) -> Snapshot:
    """Structs with the offsets, sizes and types of their fields, unions, enums, integer macros."""
    texts = [re.sub(r"/\*.*?\*/", "", (include / header).read_text(), flags=re.S) for header in HEADERS]
    declared = "\n".join(map(declarations, texts))
    ffi = cffi.FFI()
    ffi.cdef(declared)
    names = [n for n in ffi.list_types()[0] if n.startswith(("infini", "Infini"))]
    types = {name: ffi.typeof(name) for name in names}
    macros = dict(re.findall(r"^#define (INFINI\w+)[ \t]+(\"[^\"]*\"|\d+u?)[ \t]*$", "\n".join(texts), re.M))
    return {
        "version": [int(macros.pop(f"INFINIOP_BACKEND_ABI_{part}")) for part in ("MAJOR", "MINOR")],
        "structs": {
            n: _struct(ffi, t, _fields(declared, n))
            for n, t in types.items()
            if t.kind in ("struct", "union") and t.fields
        },
        "enums": {n: dict(t.relements) for n, t in types.items() if t.kind == "enum"},
        "pointers": {n: t.cname for n, t in types.items() if t.kind in ("pointer", "function")},
        "functions": _functions(declared),
        "macros": macros,
    }


def _functions(declared: str) -> dict[str, str]:
    """Prototypes, without the names of parameters."""
    outside = re.sub(r"\{[^{}]*\}", "", declared)
    found = re.findall(r"^([\w* ]+?)\b(infini\w+)\(([^()]*)\);", outside, re.M | re.S)
    return {name: f"{_type(result)}({', '.join(map(_type, given.split(',')))})" for result, name, given in found}


def _type(parameter: str) -> str:
    plain = " ".join(re.sub(r"(\*+)\s*\w*$", r"\1", " ".join(parameter.split())).split())
    return plain if "*" in plain or " " not in plain else plain.rpartition(" ")[0]


def _fields(declared: str, struct: str) -> list[str]:
    """The types of its fields as they are written, for cffi forgets `const`; without the names of parameters."""
    found = re.search(rf"typedef (?:struct|union) \w+ \{{([^{{}}]*)\}} {struct};", declared)
    assert found is not None, struct
    types = []
    for text in found[1].split(";")[:-1]:
        function = re.fullmatch(r"\s*(.*)\(\*\w+\)\((.*)\)", text, re.S)
        plain = _type(text)
        types.append(f"{_type(function[1])}(*)({', '.join(map(_type, function[2].split(',')))})" if function else plain)
    return types


def _struct(ffi: cffi.FFI, struct: Any, types: list[str]) -> Snapshot:
    fields = [
        {"name": name, "type": kind, "offset": field.offset, "size": ffi.sizeof(field.type)}
        for (name, field), kind in zip(struct.fields, types, strict=True)
    ]
    return {"kind": struct.kind, "size": ffi.sizeof(struct), "fields": fields}


def broken(old: Snapshot, new: Snapshot) -> Iterator[str]:
    """What a plugin compiled with `old` would stumble over in `new`."""
    if old["version"][0] != new["version"][0]:
        return  # another major version owes nothing to this one
    for name, struct in old["structs"].items():
        yield from _broken_struct(name, struct, new["structs"].get(name))
    for kind in ("enums", "pointers", "functions", "macros"):
        yield from _broken_values(kind, old[kind], new[kind])
    if new["version"][1] < old["version"][1]:
        yield f"version {new['version']} is older than {old['version']}"
    if list(appended(old, new)) and new["version"][1] == old["version"][1]:
        yield f"something was appended, and the minor version is still {new['version'][1]}"


def _broken_struct(name: str, old: Snapshot, new: Snapshot | None) -> Iterator[str]:
    if new is None:
        yield f"{name} is gone"
        return
    kept = new["fields"][: len(old["fields"])]
    for was, now in zip(old["fields"], kept, strict=False):
        if was != now:
            yield f"{name}: field {was} became {now}"
    if len(kept) < len(old["fields"]):
        yield f"{name}: {old['fields'][len(kept)]['name']} is gone"
    grows = old["kind"] == "struct" and old["fields"][0]["name"] == "struct_size"
    if new["size"] != old["size"] and not (grows and new["size"] > old["size"]):
        yield f"{name}: has {new['size']} bytes, had {old['size']}"
    if len(new["fields"]) > len(old["fields"]) and new["size"] == old["size"]:
        yield f"{name}: a field in what was padding: old plugins leave garbage there"


def _broken_values(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name, value in old.items():
        now = new.get(name)
        if kind == "enums" and now is not None:
            yield from _broken_values(name, value, now)
        elif now != value:
            yield f"{kind}: {name} was {value}, is {now}"


def appended(old: Snapshot, new: Snapshot) -> Iterator[str]:
    """What is new."""
    for name, struct in new["structs"].items():
        known = {f["name"] for f in old["structs"].get(name, {"fields": []})["fields"]}
        yield from (f"{name}.{f['name']}" for f in struct["fields"] if f["name"] not in known)
    for kind in ("enums", "pointers", "functions", "macros"):
        yield from (name for name in new[kind] if name not in old[kind])
    for name, values in new["enums"].items():
        yield from (f"{name}: {v}" for v in values if v not in old["enums"].get(name, values))


def assertions(snapshot: Snapshot) -> str:
    """C and C++ that compiles when a compiler sees the same: sizes, offsets, enumerators."""
    lines = [f"#include <{header}>" for header in HEADERS] + ["#include <stddef.h>"]

    def hold(condition: str) -> None:
        lines.append(f'INFINIOP_SNAPSHOT_ASSERT({condition}, "{condition}");')

    lines += ["#ifdef __cplusplus", "#define INFINIOP_SNAPSHOT_ASSERT static_assert", "#else"]
    lines += ["#define INFINIOP_SNAPSHOT_ASSERT _Static_assert", "#endif"]
    for name, struct in snapshot["structs"].items():
        hold(f"sizeof({name}) == {struct['size']}")
        for field in struct["fields"]:
            hold(f"offsetof({name}, {field['name']}) == {field['offset']}")
            hold(f"sizeof((({name} *)0)->{field['name']}) == {field['size']}")
    for name, values in snapshot["enums"].items():
        hold(f"sizeof({name}) == sizeof(int)")
        for value, number in values.items():
            hold(f"{value} == {number}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    old, new = (json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else None), current()
    problems = list(broken(old, new)) if old else []
    if problems:
        print("\n".join([*problems, HOW_TO_APPEND]), file=sys.stderr)
        return 1
    if arguments == ["--append"]:
        SNAPSHOT.write_text(json.dumps(new, indent=1) + "\n")
    elif new != old:
        print(f"new: {', '.join(appended(old, new)) if old else 'everything'}\n{HOW_TO_APPEND}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
