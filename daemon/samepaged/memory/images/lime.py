"""LiME's format: ranges of physical memory, each behind a header of its own (doc/README.md in LiME's source)."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from samepaged.memory.images.span import Span, damaged

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAGIC", "ranges"]

MAGIC: Final = b"EMiL"  # 0x4C694D45, in the byte order of the machines that it is for
VERSION: Final = 1
# magic, version, the first address of the range, its last, and 8 octets for later
HEADER: Final = struct.Struct("<4sIQQ8x")
MAX_RANGES: Final = 1 << 20


def ranges(file: int, size: int, path: Path) -> tuple[Span, ...]:
    """The ranges in the file of this descriptor, which has `size` bytes. Raises TraceError."""
    found: list[Span] = []
    at = 0
    while at < size:
        head = os.pread(file, HEADER.size, at)
        if len(head) < HEADER.size:
            raise damaged(path, f"ends early, in the range header at byte {at}")
        magic, version, first, last = HEADER.unpack(head)
        if magic != MAGIC:
            raise damaged(path, f"does not have a range header at byte {at}")
        if version != VERSION:
            raise damaged(path, f"has a range of LiME format version {version}; only version 1 is supported")
        if last < first:
            raise damaged(path, f"has a range that ends at {last:#x}, before its start at {first:#x}")
        if len(found) == MAX_RANGES:
            raise damaged(path, f"has more than {MAX_RANGES} ranges")
        at += HEADER.size
        found.append(Span(first, last - first + 1, at))
        at += last - first + 1
    return tuple(found)
