"""The LiME format: ranges of physical memory, each after a header (doc/README.md in LiME's source)."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from samepaged.memory.images.span import Span, damaged

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAGIC", "ranges"]

MAGIC: Final = b"EMiL"  # 0x4C694D45, little-endian
VERSION: Final = 1
# magic, version, the first and the last address of the range, and 8 reserved bytes
HEADER: Final = struct.Struct("<4sIQQ8x")
MAX_RANGES: Final = 1 << 20


def ranges(file: int, size: int, path: Path) -> tuple[Span, ...]:
    """The ranges in the file of `size` bytes with this descriptor. Raises TraceError."""
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
            raise damaged(path, f"has a range of LiME format version {version}: only version 1 is supported")
        if last < first:
            raise damaged(path, f"has a range that ends at {last:#x}, before its start at {first:#x}")
        if len(found) == MAX_RANGES:
            raise damaged(path, f"has more than {MAX_RANGES} ranges")
        at += HEADER.size
        found.append(Span(first, last - first + 1, at))
        at += last - first + 1
    return tuple(found)
