"""The guest RAM in an ELF core file (elf(5)).

Unlike in the stream of elf_stream.py, the headers may be anywhere in the file.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.arch.x86_64 import HIGH_RAM_START, VGA_WINDOW_END, VGA_WINDOW_START
from samepaged.errors import GuestError, TraceError
from samepaged.memory.images.elf_stream import (
    ET_CORE,
    HEADERS,
    MAX_SEGMENTS,
    PN_XNUM,
    PT_LOAD,
    SECTION_INFO,
    ram_segments,
)
from samepaged.memory.images.span import Span, damaged

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Ram", "ram"]

PT_NOTE: Final = 4
BYTE_ORDERS: Final = {1: "<", 2: ">"}
MACHINE_AT: Final = 18
PC: Final = {3, 62}  # EM_386, EM_X86_64
# Header of a note: the sizes of its name and its content, which are padded to 4 bytes.
NOTE: Final = {"<": struct.Struct("<II4x"), ">": struct.Struct(">II4x")}
QEMU: Final = b"QEMU\0"
MAX_NOTES_BYTES: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Ram:
    """RAM spans, and spans of device memory: video RAM, ROMs, and spans that cannot be distinguished from these."""

    spans: tuple[Span, ...]
    devices: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class _Header:
    kind: int
    offset: int
    address: int
    filed: int
    size: int


def ram(file: int, size: int, path: Path, memory: int | None) -> Ram:
    """The RAM in the core file of `size` bytes with this descriptor. Raises TraceError.

    QEMU's core of a PC also contains device memory, without a mark. With `memory`, the domain's size in bytes, RAM is
    found as in a scan with the dump reader. Without it, RAM is the memory from address 0 up to the first gap, and from
    4 GiB up to the first gap. In other cores, every segment is RAM.

    If a segment is larger in memory than in the file, the rest is unknown. When a program is loaded, elf(5) fills it
    with zeros; but programs that write a core omit unwanted memory of any content.
    """
    order, headers, machine = _headers(file, size, path)
    loads = [header for header in headers if header.kind == PT_LOAD and header.size]
    if len(loads) > 1 and not any(load.address for load in loads):
        raise TraceError(
            path,
            "is the core of a process: it lacks guest-physical addresses",
            "dump the guest with `virsh dump --memory-only`",
        )
    spans = tuple(span for load in loads for span in _spans(load))
    notes = [header for header in headers if header.kind == PT_NOTE]
    of_qemu = machine in PC and any(_by_qemu(file, note, order) for note in notes if note.offset < size)
    if memory is not None:
        return _placed(path, spans, memory)
    return _of_pc(path, spans) if of_qemu else Ram(spans)


def _spans(load: _Header) -> list[Span]:
    held = Span(load.address, load.filed, load.offset)
    lacking = Span(held.end, load.size - load.filed, None)
    return [span for span in (held, lacking) if span.size]


def _headers(file: int, size: int, path: Path) -> tuple[str, list[_Header], int]:
    """The byte order, the program headers, and the machine."""

    def take(at: int, count: int) -> bytes:
        taken = os.pread(file, count, at) if at + count <= size else b""
        if len(taken) < count:
            raise damaged(path, "ends early, before its headers end")
        return taken

    ident = take(0, 20)
    if ident[:4] != b"\x7fELF" or ident[4] not in HEADERS or ident[5] not in BYTE_ORDERS:
        raise damaged(path, "is not an ELF file")
    order = BYTE_ORDERS[ident[5]]
    header, program, length = HEADERS[ident[4]]
    kind, _version, phoff, shoff, phentsize, phnum = _ordered(header, order).unpack(take(0, length))
    if kind != ET_CORE:
        raise damaged(path, f"is an ELF file of type {kind}, not a core")
    if phnum == PN_XNUM:
        section, section_size = SECTION_INFO[ident[4]]
        phnum = _ordered(section, order).unpack(take(shoff, section_size))[0]
    if phentsize != program.size or not 0 < phnum <= MAX_SEGMENTS:
        raise damaged(path, f"has {phnum} program headers of {phentsize} bytes")
    table = take(phoff, phnum * program.size)
    found = [_Header(*fields) for fields in _ordered(program, order).iter_unpack(table)]
    for one in found:
        if one.kind == PT_LOAD and one.size < one.filed:
            raise damaged(path, f"has a segment of {one.filed} bytes in {one.size} bytes of memory")
    return order, found, struct.unpack_from(f"{order}H", ident, MACHINE_AT)[0]


def _ordered(structure: struct.Struct, order: str) -> struct.Struct:
    return struct.Struct(order + structure.format[1:])


def _by_qemu(file: int, header: _Header, order: str) -> bool:
    """Whether a note has QEMU's name, which marks the processor state of a PC (target/i386/arch_dump.c)."""
    notes = os.pread(file, min(header.filed, MAX_NOTES_BYTES), header.offset)
    at = 0
    while at + NOTE[order].size <= len(notes):
        name, content = NOTE[order].unpack_from(notes, at)
        at += NOTE[order].size
        if notes[at : at + name] == QEMU:
            return True
        at += -(-name // 4) * 4 + -(-content // 4) * 4
    return False


def _of_pc(path: Path, spans: tuple[Span, ...]) -> Ram:
    found: list[Span] = []
    devices: list[Span] = []
    end = 0
    for span in sorted(spans, key=lambda span: span.address):
        if end == VGA_WINDOW_START and span.address == VGA_WINDOW_END:
            found.append(_window())
        elif span.address != end and not end <= HIGH_RAM_START == span.address:
            devices.append(span)
            continue
        found.append(span)
        end = span.end
    if not found:
        raise damaged(path, "lacks memory at address 0, the start of a PC's RAM")
    return Ram(tuple(found), tuple(devices))


def _placed(path: Path, spans: tuple[Span, ...], memory: int) -> Ram:
    try:
        placed = [span for span, _ in ram_segments(spans, memory)]
    except GuestError as error:
        raise TraceError(
            path,
            f"does not have {memory} bytes of RAM at the addresses of a PC's RAM",
            "set --memory to the domain's memory, or omit it",
        ) from error
    window = [_window()] if any(span.address == VGA_WINDOW_END for span in placed[1:]) else []
    return Ram((*placed, *window), tuple(span for span in spans if span not in placed))


def _window() -> Span:
    """The RAM behind the window of a display adapter: the guest has it, but the dump does not."""
    return Span(VGA_WINDOW_START, VGA_WINDOW_END - VGA_WINDOW_START, None)
