"""Parser for the ELF core of QEMU's dump-guest-memory as a stream, without seeking and without storing it.

QEMU's dump.c writes the headers, the notes, and the segments in the order of their offsets. The class is 32 bits if
no processor was in long mode.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from samepaged.arch import PAGE_SIZE
from samepaged.arch.x86_64 import HIGH_RAM_START, VGA_WINDOW_END, VGA_WINDOW_START
from samepaged.errors import GuestError, Reason
from samepaged.memory.locked_buffer import locked_buffer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["ElfStream", "Segment", "ram_segments"]

PT_LOAD: Final = 1
ET_CORE: Final = 4
PN_XNUM: Final = 0xFFFF
# e_type, e_phoff, e_shoff, e_phentsize, e_phnum; then a program header's p_type, p_offset, p_paddr, p_filesz, p_memsz
HEADERS: Final = {
    1: (struct.Struct("<16xH2xI4xII4x2xHH6x"), struct.Struct("<II4xIII8x"), 52),
    2: (struct.Struct("<16xH2xI8xQQ4x2xHH6x"), struct.Struct("<I4xQ8xQQQ8x"), 64),
}
SECTION_INFO: Final = {1: (struct.Struct("<28xI8x"), 40), 2: (struct.Struct("<44xI16x"), 64)}
MAX_SEGMENTS: Final = 1 << 20
SKIP_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """A PT_LOAD segment: its offset in the stream, its guest-physical address, and its size; all in bytes."""

    offset: int
    address: int
    size: int


class _Extent(Protocol):
    """A range of guest-physical addresses in a dump, in bytes."""

    @property
    def address(self) -> int: ...

    @property
    def size(self) -> int: ...


Extent = TypeVar("Extent", bound=_Extent)


def _bad(problem: str) -> GuestError:
    return GuestError(
        Reason.DUMP, f"the memory dump {problem}", "check that it is a complete memory-only dump by libvirt"
    )


class ElfStream:
    """Reads a dump through `readinto(buffer) -> bytes read (0 at the end)`. Raises GuestError if it is invalid."""

    def __init__(self, readinto: Callable[[memoryview], int]) -> None:
        self._readinto = readinto
        self._position = 0
        self.segments = self._headers()

    def fill(self, buffer: memoryview) -> None:
        """Fill the buffer with the next bytes."""
        filled = 0
        while filled < len(buffer):
            count = self._readinto(buffer[filled:])
            if count <= 0:
                raise _bad(f"ends early, after {self._position + filled} bytes")
            filled += count
        self._position += filled

    def _take(self, count: int) -> bytes:
        taken = bytearray(count)
        self.fill(memoryview(taken))
        return bytes(taken)

    def skip_to(self, offset: int) -> None:
        """Read up to this offset of the stream, and discard the bytes."""
        if offset < self._position:
            raise _bad("has segments out of order")
        if offset == self._position:
            return
        skipped = locked_buffer(min(SKIP_BYTES, offset - self._position))
        while self._position < offset:
            self.fill(skipped[: min(len(skipped), offset - self._position)])

    def _headers(self) -> tuple[Segment, ...]:
        ident = self._take(16)
        if ident[:4] != b"\x7fELF" or ident[4] not in HEADERS or ident[5] != 1:
            raise _bad("is not a little-endian ELF file")
        header, program, length = HEADERS[ident[4]]
        head = ident + self._take(length - 16)
        kind, _version, phoff, shoff, phentsize, phnum = header.unpack(head)
        if kind != ET_CORE:
            raise _bad(f"is an ELF file of type {kind}, not a core")
        if phnum == PN_XNUM:
            phnum = self._extended_count(ident[4], shoff, phoff)
        if phentsize != program.size or not 0 < phnum <= MAX_SEGMENTS:
            raise _bad(f"has {phnum} program headers of {phentsize} bytes")
        self.skip_to(phoff)
        segments: list[Segment] = []
        for _ in range(phnum):
            p_type, p_offset, p_paddr, p_filesz, p_memsz = program.unpack(self._take(program.size))
            if p_type == PT_LOAD and p_filesz:
                if p_memsz < p_filesz:
                    raise _bad(f"has a segment of {p_filesz} bytes in {p_memsz} bytes of memory")
                segments.append(Segment(p_offset, p_paddr, p_filesz))
        return tuple(sorted(segments, key=lambda segment: segment.offset))

    def _extended_count(self, elf_class: int, shoff: int, phoff: int) -> int:
        """Read the count of 65,535 or more segments from the first section header (elf(5)), which QEMU writes first."""
        section, size = SECTION_INFO[elf_class]
        if shoff < self._position or shoff + size > phoff:
            raise _bad("does not have the section header with its count of segments before its program headers")
        self.skip_to(shoff)
        count: int = section.unpack(self._take(size))[0]
        return count


def ram_segments(segments: Sequence[Extent], total: int) -> list[tuple[Extent, int]]:
    """The RAM segments of a PC's dump, `total` bytes, each with the offset of its start in RAM (bytes).

    A dump also contains device memory: video RAM and ROMs below 4 GiB, and 64-bit BARs above. RAM precedes every BAR.
    Raises GuestError if the sizes do not add up to `total`.
    """
    placed: list[tuple[Extent, int]] = []
    end = 0
    for segment in sorted(segments, key=lambda segment: segment.address):
        if end == total:  # the next segment may be adjacent device memory, such as video RAM
            break
        if segment.address % PAGE_SIZE or segment.size % PAGE_SIZE:
            raise GuestError(Reason.DUMP, f"the memory dump has a partial page at {segment.address:#x}")
        if segment.address < HIGH_RAM_START:
            if segment.address not in (end, VGA_WINDOW_END if end == VGA_WINDOW_START else end):
                continue
            offset = segment.address
        else:
            offset = end
        placed.append((segment, offset))
        end = offset + segment.size
    if end != total:
        raise GuestError(
            Reason.LAYOUT,
            f"the memory dump has {end} bytes of RAM, but the domain XML has {total}",
            "use `--reader process`",
        )
    return placed
