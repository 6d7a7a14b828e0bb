"""What an nvcc-built library holds, read from the file itself: targets, and each kernel's registers and stack."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FATBIN, _PTX, _ELF = 0xBA55ED50, 1, 2
_FRAME_SIZE, _REGISTERS = 0x11, 0x2F  # attributes of .nv.info


@dataclass(frozen=True)
class Image:
    """One kernel file for one target."""

    kind: int
    architecture: int
    data: bytes

    @property
    def is_ptx(self) -> bool:
        return self.kind == _PTX


def images(library: Path) -> Iterator[Image]:
    """PTX and SASS in the order in which they lie in the file."""
    data = library.read_bytes()
    at = data.find(struct.pack("<I", _FATBIN))
    while at >= 0:
        header, size = struct.unpack_from("<HQ", data, at + 6)
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, head, length = struct.unpack_from("<HHIQ", data, entry)
            (architecture,) = struct.unpack_from("<I", data, entry + 28)
            if kind in (_PTX, _ELF):
                yield Image(kind, architecture, data[entry + head : entry + head + length])
            entry += head + length
        at = data.find(struct.pack("<I", _FATBIN), end)


def frames(cubin: bytes) -> dict[str, int]:
    """Bytes of stack per kernel: 0 means that nothing is spilled and no local array exists."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + i * size) for i in range(count)]

    def content(section: tuple[int, ...]) -> bytes:
        return cubin[section[4] : section[4] + section[5]]

    names = content(sections[names_at])

    def name(table: bytes, offset: int) -> str:
        return table[offset : table.index(b"\0", offset)].decode()

    by_name = {name(names, s[0]): s for s in sections}
    symbols, strings = content(by_name[".symtab"]), content(by_name[".strtab"])
    found: dict[str, int] = {}
    info = content(by_name[".nv.info"])
    at = 0
    while at < len(info):
        layout, attribute, value = struct.unpack_from("<BBH", info, at)
        at += 4
        if layout == 4:  # sized
            if attribute == _FRAME_SIZE:
                symbol, frame = struct.unpack_from("<II", info, at)
                function = name(strings, struct.unpack_from("<I", symbols, symbol * 24)[0])
                if not function.startswith("$"):  # a division that a kernel calls keeps a return address
                    found[function] = frame
            at += value
    return found
