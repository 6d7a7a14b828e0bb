"""The cffi declarations of everything public, read from the headers themselves, and the extension's C source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from infiniop._trampolines import TRAMPOLINES

from . import signature

if TYPE_CHECKING:
    from infiniop.schema import Operator

Operators = Mapping[str, "Operator"] | Iterable["Operator"]

_INCLUDE = Path(__file__).resolve().parents[2] / "include"
_COMMON = (
    "infinicore.h",
    "infiniop/enums.h",
    "infinirt.h",
    "infiniccl.h",
    "infiniop/backend.h",
    "infiniop/handle.h",
    "infiniop/tensor_descriptor.h",
    "infiniop/operator_descriptor.h",
    "infiniop/registry.h",
    "infiniop/verify.h",
)

# The exchange structs of DLPack 1.0 and of the unversioned protocol before it.
_DLPACK = """\
typedef struct { int32_t device_type; int32_t device_id; } DLDevice;
typedef struct { uint8_t code; uint8_t bits; uint16_t lanes; } DLDataType;
typedef struct {
    void *data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t *shape;
    int64_t *strides;
    uint64_t byte_offset;
} DLTensor;
typedef struct DLManagedTensor {
    DLTensor dl_tensor;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensor *self);
} DLManagedTensor;
typedef struct { uint32_t major; uint32_t minor; } DLPackVersion;
typedef struct DLManagedTensorVersioned {
    DLPackVersion version;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags;
    DLTensor dl_tensor;
} DLManagedTensorVersioned;
"""


def cdef(operators: Operators) -> str:
    """The declarations, as `ffi.cdef` takes them in both modes."""
    return "\n".join([_DLPACK, *(declarations((_INCLUDE / h).read_text()) for h in _COMMON), prototypes(operators)])


def emit(operators: Operators, path: str | Path) -> None:
    """Write the C source of the extension module `infiniop._native`."""
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(cdef(operators))
    trampolines = "".join(f"    {prototype.format(name)};\n" for name, prototype in TRAMPOLINES.items())
    ffi.cdef(f'extern "Python" {{\n{trampolines}}}\n')
    includes = "".join(f'#include "{header}"\n' for header in _COMMON)
    ffi.set_source("infiniop._native", includes + _DLPACK + prototypes(operators), py_limited_api=True)
    ffi.emit_c_code(str(path))


def prototypes(operators: Operators) -> str:
    """The typed functions of the operators that are built."""
    every = list(operators.values() if isinstance(operators, Mapping) else operators)
    types = sorted({signature.descriptor_type(operator) for operator in every})
    lines = [f"typedef struct InfiniopDescriptor *{name};" for name in types]
    for operator in every:
        for function in signature.functions(operator):
            lines.append(f"infiniStatus_t {function.name}({', '.join(function.params)});")
    return "\n".join(lines) + "\n"


def declarations(header: str) -> str:
    """A header's declarations and integer macros, without comments, directives and attributes."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", header, flags=re.S).replace("\\\n", " ")
    lines = [line for line in _compiled_as_c(text.splitlines()) if line.strip()]
    text = "\n".join(lines)
    text = re.sub(r"\bINFINIOP_FROZEN\([^\n]*\);", "", text)
    return re.sub(r"\bINFINI_API\b\s*", "", text).replace('extern "C"', "")


def _compiled_as_c(lines: Iterable[str]) -> Iterable[str]:
    """Lines that a C compiler would see; `#define`s of integers stay, other directives go."""
    live = [True]
    for line in lines:
        directive = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if directive is None:
            if all(live):
                yield line
            continue
        word, rest = directive.groups()
        if word in ("if", "ifdef", "ifndef"):
            live.append(not (word == "ifdef" and rest.strip() == "__cplusplus"))
        elif word == "else":
            live[-1] = not live[-1]
        elif word == "endif":
            live.pop()
        elif word == "define" and all(live) and (macro := re.match(r"(\w+)\s+(0x[0-9a-fA-F]+|\d+)[uU]?\s*$", rest)):
            yield f"#define {macro[1]} {macro[2]}"
