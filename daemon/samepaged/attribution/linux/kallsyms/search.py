"""Search for the symbol tables of kernels before 6.0, which do not publish their addresses, by the token table.

The tables follow each other, each at a multiple of 8 (scripts/kallsyms.c, 4.20 to 6.3): offsets, relative base, number,
names, markers (offset of every 256th name, 4 bytes each), tokens, token index.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SHIFT
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.kallsyms.names import MAX_SYMBOLS, TOKENS, name_starts
from samepaged.attribution.linux.vmcoreinfo import IMAGE, IMAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samepaged.attribution.linux.paging import PageTableLeaves
    from samepaged.attribution.linux.virtual_memory import Memory

__all__ = ["find_tables"]

# The token of a digit is the digit itself.
DIGITS: Final = b"".join(b"%d\0" % digit for digit in range(10))
MARKER_STEP: Final = 256
MAX_MARKERS: Final = MAX_SYMBOLS // MARKER_STEP
# A kernel image is far smaller, and so is a token table.
MAX_SEARCHED_BYTES: Final = 256 << 20
STEP_BYTES: Final = 1 << 18
MAX_TOKEN_TABLE_BYTES: Final = 1 << 14
MAX_PACKED_NAME_BYTES: Final = 128
# Places that look like the digits' tokens are cheap to check. Consistent tables, and possible numbers of names, are
# expensive to check, and a real kernel has only one of each.
MAX_DIGIT_TABLES: Final = 256
MAX_CANDIDATES: Final = 4


def find_tables(memory: Memory, page_tables: PageTableLeaves, stext: int) -> dict[str, int]:
    """Return the addresses of the tables, under their names in VMCOREINFO since 6.0. Raises Unreadable."""
    tried = 0
    for digits in islice(_digits(memory, page_tables, stext), MAX_DIGIT_TABLES):
        try:
            table, index = _token_table(memory, digits)
        except Unreadable:
            continue
        with suppress(Unreadable):
            return _tables(memory, table, index)
        tried += 1
        if tried == MAX_CANDIDATES:
            break
    raise Unreadable("no symbol table in the kernel image")


def _stretches(mapped: PageTableLeaves, stext: int) -> Iterator[tuple[int, int]]:
    """Yield the contiguously mapped ranges, from the image's text on."""
    first = (stext & -(1 << 21)) - (1 << 64)
    inside = (mapped.addresses >= first) & (mapped.addresses < IMAGE + IMAGE_SIZE - (1 << 64))
    starts = mapped.addresses[inside]
    if not len(starts):
        return
    ends = starts + (mapped.pages[inside] << PAGE_SHIFT)
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    firsts, lasts = np.r_[0, breaks], np.r_[breaks, len(starts)] - 1
    for start, end in zip(starts[firsts].tolist(), ends[lasts].tolist(), strict=True):
        yield start + (1 << 64), end + (1 << 64)


def _digits(memory: Memory, mapped: PageTableLeaves, stext: int) -> Iterator[int]:
    """Yield the possible addresses of the digits' tokens."""
    searched = 0
    for start, end in _stretches(mapped, stext):
        for at in range(start, end, STEP_BYTES):
            size = min(STEP_BYTES + len(DIGITS), end - at)
            searched += size
            if searched > MAX_SEARCHED_BYTES:
                return
            try:
                raw = memory.read(at, size)
            except Unreadable:
                continue
            found = raw.find(DIGITS)
            while 0 <= found < STEP_BYTES:
                yield at + found
                found = raw.find(DIGITS, found + 1)


def _tables(memory: Memory, table: int, index: int) -> dict[str, int]:
    markers, at = _markers(memory, table)
    base, count = _count(memory, at, markers)
    return {
        "kallsyms_token_table": table,
        "kallsyms_token_index": index,
        "kallsyms_num_syms": base + 8,
        "kallsyms_names": base + 16,
        "kallsyms_relative_base": base,
        "kallsyms_offsets": base - (4 * count + 7 & -8),
    }


def _token_table(memory: Memory, digits: int) -> tuple[int, int]:
    """Return the start of the token table that contains the digits' tokens, and the start of its index."""
    before, after = (
        memory.read(digits - MAX_TOKEN_TABLE_BYTES, MAX_TOKEN_TABLE_BYTES),
        memory.read(digits, MAX_TOKEN_TABLE_BYTES),
    )
    start = len(before)
    for _ in range(ord("0")):
        start = before.rfind(b"\0", 0, max(start - 1, 0)) + 1
        if not start:
            raise Unreadable("no token table")
    # Zeros may precede the first token, as padding to a multiple of 8.
    table = digits - MAX_TOKEN_TABLE_BYTES + start + 7 & -8
    text = before[table - digits + MAX_TOKEN_TABLE_BYTES :] + after
    offsets, at = [], 0
    for _ in range(TOKENS):
        offsets.append(at)
        at = text.find(b"\0", at) + 1
        if not at:
            raise Unreadable("no token table")
    wanted = np.array(offsets, dtype=np.int64).astype("<u2").tobytes()
    index = text.find(wanted, at, at + len(wanted) + 64)
    if index < 0 or index % 8:
        raise Unreadable("no token table")
    return table, table + index


def _markers(memory: Memory, end: int) -> tuple[list[int], int]:
    """Return the markers before this address, and their start: read backwards, they decrease to 0."""
    found: list[int] = []
    raw = b""
    at = end
    while len(found) <= MAX_MARKERS:
        if not raw:
            raw = memory.read(at - 1024, 1024)
        at -= 4
        value = int.from_bytes(raw[-4:], "little")
        raw = raw[:-4]
        if not found and not value and end - at == 4:  # noqa: PLR2004 - padding to a multiple of 8
            continue
        if found and value >= found[-1]:
            break
        found.append(value)
        if not value:
            return found[::-1], at
    raise Unreadable("no markers of symbol names")


def _count(memory: Memory, end: int, markers: list[int]) -> tuple[int, int]:
    """Return the address of the relative base before the names that end at the markers at `end`, and their number."""
    last = end - markers[-1] - 8
    first = last - MARKER_STEP * MAX_PACKED_NAME_BYTES & -8
    raw = memory.read(first, last + 8 - first)
    numbers = np.frombuffer(raw[: len(raw) & -8], dtype="<u8")
    fits = (numbers > MARKER_STEP * (len(markers) - 1)) & (numbers <= MARKER_STEP * len(markers))
    for place in np.flatnonzero(fits)[:MAX_CANDIDATES].tolist():
        number, count = first + 8 * place, int(numbers[place])
        try:
            starts = name_starts(memory.read(number + 8, end - number - 8), count)
        except Unreadable:
            continue
        if starts[:-1:MARKER_STEP].tolist() == markers and end - number - 8 - int(starts[-1]) < 8:  # noqa: PLR2004 - padding
            return number - 8, count
    raise Unreadable("no symbol names")
