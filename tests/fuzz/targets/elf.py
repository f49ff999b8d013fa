"""The ELF stream of a memory dump: headers, selection of the RAM segments, and reading of their pages.

The first octet of an input selects the RAM size of the domain and the form of the stream. The other octets begin the
stream, which continues with REST. The seeds are QEMU's headers, with the sizes of segments reduced to the length of
REST.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.arch.x86_64 import HIGH_RAM_START, VGA_WINDOW_END, VGA_WINDOW_START
from samepaged.memory.dump_reader import DumpStream
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.memory.images.elf_stream import ElfStream, ram_segments
from samepaged.sharing.digest import SWAPPED
from tests.fuzz.target import Target, seed_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from samepaged.memory.images.elf_stream import Segment

REST: Final = np.random.default_rng(0).bytes(0xE8000 + 1)
SHORT_REST: Final = REST[: 0x10000 + 1]
SEED: Final = 7
ROMS: Final = 0xF0000000
HASHER: Final = best_hasher()

# Bits of the first octet:
SEGMENTS: Final = 0x0F  # this number of segments, plus one, is RAM
ODD_SIZE: Final = 0x10
PIECES: Final = 0x20  # the stream arrives in pieces
WINDOW: Final = 0x40  # RAM contains a display's window, and the stream is long enough for it


def check(data: bytes) -> None:
    chosen, head = (data[0] if data else 0), data[1:]
    rest = REST if chosen & WINDOW else SHORT_REST
    stream = ElfStream(_stream(head, rest, pieces=bool(chosen & PIECES)))
    segments = stream.segments
    assert all(segment.size > 0 <= segment.address and segment.offset >= 0 for segment in segments)
    assert [segment.offset for segment in segments] == sorted(segment.offset for segment in segments)
    total = _total(segments, chosen)
    placed = ram_segments(segments, total)
    _check_placed(placed, total)
    if total <= len(rest):
        read = _reader(total)._hash(stream)
        assert (read == _expected(placed, head + rest, total)).all()


def _stream(head: bytes, rest: bytes, *, pieces: bool) -> Callable[[memoryview], int]:
    position = 0

    def readinto(buffer: memoryview) -> int:
        nonlocal position
        count = min(len(buffer), 20_001) if pieces else len(buffer)
        if position < len(head):
            part = head[position : position + count]
        else:
            part = rest[position - len(head) : position - len(head) + count]
        buffer[: len(part)] = part
        position += len(part)
        return len(part)

    return readinto


def _total(segments: tuple[Segment, ...], chosen: int) -> int:
    """Return a RAM size that the domain's XML may have: usually the sum of the segments."""
    sizes = [s.size for s in sorted(segments, key=lambda s: s.address) if not ROMS <= s.address < HIGH_RAM_START]
    total = sum(sizes[: (chosen & SEGMENTS) + 1])
    total += VGA_WINDOW_END - VGA_WINDOW_START if chosen & WINDOW else 0
    return total + 1 if chosen & ODD_SIZE else total


def _check_placed(placed: list[tuple[Segment, int]], total: int) -> None:
    end = 0
    for segment, offset in placed:
        assert offset % PAGE_SIZE == segment.size % PAGE_SIZE == 0
        assert offset == end or (end, offset) == (VGA_WINDOW_START, VGA_WINDOW_END)
        assert segment.address == offset or segment.address >= HIGH_RAM_START
        end = offset + segment.size
    assert end == total


@cache
def _reader(total: int) -> DumpStream:
    return DumpStream(lambda _: None, Path("/nowhere"), [total], Hashing(HASHER, SEED, 1, lambda: False))


def _expected(placed: list[tuple[Segment, int]], whole: bytes, total: int) -> NDArray[np.uint64]:
    """Return the hashes computed from the segments' offsets, without the stream. Pages outside of all segments count as
    not read.
    """
    pages = np.full(total // PAGE_SIZE, SWAPPED, dtype=np.uint64)
    for segment, offset in placed:
        content = whole[segment.offset : segment.offset + segment.size]
        first = offset // PAGE_SIZE
        HASHER.hash_buffer(memoryview(content), pages[first : first + segment.size // PAGE_SIZE], PAGE_SIZE, SEED)
    return pages


TARGET = Target(check, seed_files("elf"), words=(), longest=2048, binary=True)
