"""Files of a guest's memory in the formats of dump programs."""

from __future__ import annotations

import struct
from dataclasses import dataclass

__all__ = ["PAGE", "Load", "core", "lime", "page"]

PAGE = 4096
IDENT = {32: 1, 64: 2}
ORDER = {"<": 1, ">": 2}


@dataclass(frozen=True)
class Load:
    """A segment: its physical address, its bytes, additional bytes in memory only (`lacking`), and its virtual address
    (None: the physical address).
    """

    address: int
    content: bytes
    lacking: int = 0
    virtual: int | None = None


def page(letter: str) -> bytes:
    return letter.encode() * PAGE


def lime(*ranges: tuple[int, bytes]) -> bytes:
    return b"".join(
        struct.pack("<IIQQ8x", 0x4C694D45, 1, first, first + len(content) - 1) + content for first, content in ranges
    )


def core(
    *loads: Load,
    bits: int = 64,
    order: str = "<",
    qemu: bool = False,
    machine: int = 62,
    many: bool = False,
) -> bytes:
    """A core file of these segments; with `qemu`, its notes have QEMU's name; with `many`, the count of segments is in
    a section header after them.
    """
    note = struct.pack(f"{order}III", 5, 3, 0) + (b"QEMU\0" if qemu else b"CORE\0") + bytes(3) + b"abc\0"
    head, entry, section = (64, 56, 64) if bits == 64 else (52, 32, 40)
    rows = [(4, 0, note, 0, 0), *((1, one.address, one.content, one.lacking, one.virtual) for one in loads)]
    at = head + entry * len(rows)
    table = []
    for kind, address, content, lacking, virtual in rows:
        virtual_address = address if virtual is None else virtual
        sizes = len(content), len(content) + lacking
        if bits == 64:
            table.append(struct.pack(f"{order}IIQQQQQQ", kind, 0, at, virtual_address, address, *sizes, 0))
        else:
            table.append(struct.pack(f"{order}IIIIIIII", kind, at, virtual_address, address, *sizes, 0, 0))
        at += len(content)
    count, shoff = (0xFFFF, at) if many else (len(rows), 0)
    words = f"{order}HHI{'QQQ' if bits == 64 else 'III'}IHHHHHH"
    header = struct.pack(words, 4, machine, 1, 0, head, shoff, 0, head, entry, count, section, 0, 0)
    ident = b"\x7fELF" + bytes([IDENT[bits], ORDER[order], 1]) + bytes(9)
    sections = b""
    if many:
        sections = struct.pack(f"{order}{'44xI16x' if bits == 64 else '28xI8x'}", len(rows))
    return ident + header + b"".join(table) + b"".join(row[2] for row in rows) + sections
