"""A memory image in a file: raw, an ELF core, or LiME's. An input begins the file, which continues with 64 KiB of
memory.

An input's first octet selects whether the size of the guest's memory is given; for some inputs it is right.
"""

from __future__ import annotations

import os
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.errors import TraceError
from samepaged.memory.hashing import best_hasher
from samepaged.memory.images.image import hash_image, image_format, open_image
from samepaged.sharing.digest import FIRST_HASH, SWAPPED, ZERO
from tests.fuzz.target import Target

if TYPE_CHECKING:
    from random import Random

    from numpy.typing import NDArray

    from samepaged.memory.images.image import Image

REST: Final = 1 << 16
PATH: Final = Path("image")
SEED: Final = 7
HASHER: Final = best_hasher()

# Bits of the first octet:
TOLD: Final = 0x0F  # the given memory size in pages; 0: not given
RAW: Final = 0x10


@cache
def rest() -> bytes:
    """Return memory with holes that begin and end within pages."""
    made = bytearray(REST)
    random = np.random.default_rng(0)
    for at in (0, 3 * PAGE_SIZE + 17, 0x9000, REST - PAGE_SIZE - 1):
        made[at : at + PAGE_SIZE] = random.bytes(len(made[at : at + PAGE_SIZE]))
    return bytes(made)


def check(data: bytes) -> None:
    chosen, head = (data[0] if data else 0), data[1:]
    whole = head + rest()
    form = image_format(PATH, head)
    if chosen & RAW or form is None:
        form, whole = "raw", whole[: len(whole) // PAGE_SIZE * PAGE_SIZE]
    descriptor = os.memfd_create("image")
    try:
        _write(descriptor, whole)
        found = open_image(PATH, descriptor, len(whole), form, (chosen & TOLD) * PAGE_SIZE or None)
        _check_spans(found, len(whole))
        digests = hash_image(found, HASHER, SEED, (2048, 8192))
    finally:
        os.close(descriptor)
    expected = _expected(found, whole, PAGE_SIZE)
    assert (digests.digest.pages == expected).all()
    half, double = digests.others
    assert (half.pages == _expected(found, whole, 2048)).all()
    assert len(double.pages) <= len(expected) // 2
    assert (double.pages >= FIRST_HASH).sum() <= (expected >= FIRST_HASH).sum()


def _write(descriptor: int, whole: bytes) -> None:
    """Write the file, with holes for blocks of zeros, as in a sparse file."""
    os.ftruncate(descriptor, len(whole))
    for at in range(0, len(whole), PAGE_SIZE):
        if any(whole[at : at + PAGE_SIZE]):
            os.pwrite(descriptor, whole[at : at + PAGE_SIZE], at)


def _check_spans(found: Image, size: int) -> None:
    end = 0
    for span in found.spans:
        assert span.size > 0
        assert span.address % PAGE_SIZE == span.size % PAGE_SIZE == 0
        assert span.address >= end
        assert span.offset is None or 0 <= span.offset <= size - span.size
        end = span.end
    assert found.devices >= 0 <= found.partial


def _expected(found: Image, whole: bytes, size: int) -> NDArray[np.uint64]:
    parts = []
    for span in found.spans:
        pages = np.full(span.size // size, SWAPPED, dtype=np.uint64)
        if span.offset is not None:
            HASHER.hash_buffer(whole[span.offset : span.offset + span.size], pages, size, SEED)
        parts.append(pages)
    expected = np.concatenate(parts)
    if size < PAGE_SIZE:  # parts of a zero page are zero, too
        assert ((expected == ZERO) | (expected == SWAPPED) | (expected >= FIRST_HASH)).all()
    return expected


def _elf(segments: list[tuple[int, int, int, int]], *, wide: bool, order: str = "<") -> bytes:
    """Return the head of a core. Each segment is its offset behind the head, its address, and its size in the file and
    in memory.
    """
    size, entry, words = (64, 56, "QQQ") if wide else (52, 32, "III")
    behind = size + entry * len(segments)
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    head = struct.pack(f"{order}HHI{words}IHHHHHH", 4, 62, 1, 0, size, 0, 0, size, entry, len(segments), 0, 0, 0)
    rows = []
    for offset, address, filed, held in segments:
        if wide:
            rows.append(struct.pack(f"{order}IIQQQQQQ", 1, 0, behind + offset, address, address, filed, held, 0))
        else:
            rows.append(struct.pack(f"{order}IIIIIIII", 1, behind + offset, address, address, filed, held, 0, 0))
    return ident + head + b"".join(rows)


def _lime(first: int, size: int) -> bytes:
    return struct.pack("<IIQQ8x", 0x4C694D45, 1, first, first + size - 1)


def grow(random: Random) -> bytes:
    """Return an image with contiguous parts."""
    if random.getrandbits(1):
        return b"\0" + _lime(random.choice((0, 0x800, 0x1000, 4 << 30)), REST)
    segments = []
    offset = address = 0
    for _ in range(random.randint(1, 6)):
        filed = random.choice((0, 100, PAGE_SIZE, 5 * PAGE_SIZE, 0x8000))
        held = filed + random.choice((0, 0, 0, PAGE_SIZE, 3))
        segments.append((offset, address, filed, held))
        offset += filed
        address += held + random.choice((0, 0, PAGE_SIZE, 0x60000, 1))
    return b"\0" + _elf(segments, wide=bool(random.getrandbits(1)), order=random.choice("<>"))


SEEDS: Final = (
    b"\0" + _lime(0x1000, REST),
    b"\0" + _elf([(0, 0, 0x3000, 0x3000), (0x3000, 0x100000, 0x8000, 0xA000)], wide=True),
    b"\0" + _elf([(0, 0, 0x3000, 0x3000), (0x3000, 0x100000, 0x4000, 0x4000)], wide=False, order=">"),
    b"\3" + _elf([(0, 0, 0x3000, 0x3000), (0x3000, 0xFFFC0000, 0x4000, 0x4000)], wide=True),
    b"\x10a raw image",
)

TARGET = Target(check, SEEDS, words=(), refusals=(TraceError,), binary=True, grow=grow)
