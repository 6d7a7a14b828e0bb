"""Shadow mode: every call is made once more on other backends, and the first that differs is reported.

`INFINIOP_VERIFY=reference` turns it on for a whole process, `enable` for descriptors that are created afterwards.
A report names a folder that holds the call: `replay` (or `infiniop replay`) makes it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import _call, plugins
from ._library import callback, ffi, lib
from .device import Device
from .errors import InternalError, check
from .memory import H2D, NULL, current, pointer_to
from .operators import all_operators
from .schema import Status, dtype
from .tensor import Signature, empty
from .views import numpy_view, signature_of


@dataclass(frozen=True)
class Counts:
    """Calls that agreed, that differed, and that could not be compared."""

    verified: int
    differing: int
    unverified: int


def enable(against: str, *, keep_going: bool = False, tolerance: float = 1.0, folder: str | Path = "") -> None:
    """Compare with these backends (several: by comma). A call that differs raises; with `keep_going` it is reported.

    `tolerance` is a factor on the operators' own; calls that differ are kept below `folder` (`infiniop-verify`).
    Descriptors that exist already are not verified, those of this thread's calls excepted.
    """
    plugins.discover()
    texts = [ffi.new("char[]", str(text).encode()) for text in (against, folder)]
    options = ffi.new("infiniopVerifyOptions *")
    options.struct_size = ffi.sizeof("infiniopVerifyOptions")
    options.against, options.folder = texts
    options.keep_going, options.tolerance = keep_going, tolerance
    set_judge()
    check(lib.infiniopSetVerify(options))
    _call.forget()


def disable() -> None:
    """Verify nothing from now on."""
    enable("")


def counts() -> Counts:
    """What was compared so far."""
    room = ffi.new("infiniopVerifyCounts *")
    room.struct_size = ffi.sizeof("infiniopVerifyCounts")
    check(lib.infiniopGetVerifyCounts(room))
    return Counts(int(room.verified), int(room.differing), int(room.unverified))


# ---- operators with a comparison of their own --------------------------------------------------------------------


def set_judge() -> None:
    """Let the core ask the schemas' own comparisons."""
    check(lib.infiniopSetVerifyJudge(callback("infiniop_py_judge", _judge, int(Status.INTERNAL_ERROR))))


def _judge(one: Any) -> int:
    from .python_backend import host_arrays, report, scalars, set_error

    operator = all_operators()[ffi.string(one.op).decode()]
    try:
        sigs = {
            t.name: None if one.tensors[i] == NULL else signature_of(one.tensors[i][0], Device("cpu"), False)
            for i, t in enumerate(operator.tensors)
        }
        attrs = scalars(operator, one.attrs)
        attrs |= host_arrays(operator, sigs, one.attrs, attrs)
        found = operator.compare(  # type: ignore[misc]  # the core asks for no other
            _views(one.expected, sigs), _views(one.actual, sigs), _views(one.before, sigs), attrs
        )
        if found is None:
            return Status.SUCCESS
        set_error(Status.INTERNAL_ERROR, {"op": operator.name, "got": found}, "")
        return Status.INTERNAL_ERROR
    except BaseException as error:
        return report(error, operator.name)


def _views(pointers: Any, sigs: dict[str, Signature | None]) -> dict[str, np.ndarray | None]:
    return {
        name: None if sig is None or pointers[i] == NULL else numpy_view(pointers[i], sig)
        for i, (name, sig) in enumerate(sigs.items())
    }


# ---- a call that was kept ----------------------------------------------------------------------------------------


def replay(
    folder: str | Path, *, backend: str | None = None, against: str | None = None, tolerance: float = 1.0
) -> str | None:
    """Make a kept call again; what differs, as a sentence, or None. The backends are those of the report by default."""
    folder = Path(folder)
    kept = json.loads((folder / "call.json").read_text())
    enable(against or kept["against"], tolerance=tolerance, folder=folder / "again")
    try:
        _call_again(folder, kept, backend or kept["backend"])
    except InternalError as error:
        if "is wrong: " not in str(error):
            raise
        return str(error)
    finally:
        disable()
    return None


def _call_again(folder: Path, kept: dict[str, Any], backend: str) -> None:
    operation = _call.operations[kept["op"]]
    device = Device(f"{kept['device']}:{kept['device_id']}")
    memory = [
        _place(np.load(folder / f"memory{i}.npy"), one["misaligned"], device) for i, one in enumerate(kept["memory"])
    ]
    sigs = [_signature(tensor, device) for tensor in kept["tensors"]]
    pointers = [pointer_to(memory[t["memory"]][1] + t["offset"]) if "memory" in t else NULL for t in kept["tensors"]]
    attrs = [_attribute(folder, kept["attrs"][a.name]) for a in operation.schema.attrs]
    descriptor = operation.describe(device, sigs, attrs, backend)
    size = operation.size_of(descriptor)
    workspace = empty((size,), dtype="U8", device=device)
    scratch = (pointer_to(workspace.data_ptr), size) if operation.schema.workspace else ()
    with current(device):
        status = operation.function(descriptor, *scratch, *pointers, *operation.run_values(attrs), NULL)
    check(status, operation.name)


_LINE = 64  # bytes: memory lies as it did within one


def _place(content: np.ndarray, misaligned: int, device: Device) -> tuple[Any, int]:
    """The bytes on the device: what keeps them alive, and their address."""
    room = empty((len(content) + _LINE,), dtype="U8", device=device)
    address = room.data_ptr + (misaligned - room.data_ptr) % _LINE
    with current(device):
        check(lib.infinirtMemcpy(pointer_to(address), ffi.from_buffer(content), len(content), H2D))
    return room, address


def _signature(tensor: dict[str, Any], device: Device) -> Signature | None:
    if "dtype" not in tensor:
        return None
    return Signature.of(tuple(tensor["shape"]), tuple(tensor["strides"]), dtype(tensor["dtype"]), device)


def _attribute(folder: Path, kept: Any) -> Any:
    return np.load(folder / kept["file"]) if isinstance(kept, dict) else kept
