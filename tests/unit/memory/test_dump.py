from __future__ import annotations

import contextlib
import fcntl
import io
import os
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samepaged.errors import GuestError, Reason
from samepaged.guard.suspend import SuspendedDomain
from samepaged.memory.capture import capture
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.memory.images.elf_stream import ElfStream, Segment, ram_segments
from samepaged.memory.reader import Capture, GuestControl, GuestMemory
from samepaged.memory.scan_state import ScanState
from tests.support.scan_request import scan_request

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


def core(*loads: tuple[int, bytes], phnum: int | None = None, bits: int = 64) -> bytes:
    """An ELF core in QEMU's layout: headers, a note, then the bytes of the segments."""
    note = b"NOTE" * 5
    if bits == 64:
        head_size, size = 64, 56
    else:
        head_size, size = 52, 32
    offset = head_size + size * (len(loads) + 1)
    headers = [(4, offset, 0, len(note))]
    offset += len(note)
    for address, content in loads:
        headers.append((1, offset, address, len(content)))
        offset += len(content)
    count = len(headers) if phnum is None else phnum
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1, 1]) + bytes(9)
    if bits == 64:
        head = ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, count, 64, 0, 0)
        table = [struct.pack("<IIQQQQQQ", kind, 0, at, 0, to, n, n, 0) for kind, at, to, n in headers]
    else:
        head = ident + struct.pack("<HHIIIIIHHHHHH", 4, 3, 1, 0, 52, 0, 0, 52, 32, count, 40, 0, 0)
        table = [struct.pack("<IIIIIIII", kind, at, 0, to, n, n, 0, 0) for kind, at, to, n in headers]
    return head + b"".join(table) + note + b"".join(content for _, content in loads)


def stream(content: bytes) -> ElfStream:
    return ElfStream(io.BytesIO(content).readinto)


@pytest.mark.parametrize("bits", [32, 64])
def test_segments_round_trip(bits: int) -> None:
    elf = stream(core((0, b"a" * 4096), (0xFFFC0000, b"b" * 8192), bits=bits))
    assert [(segment.address, segment.size) for segment in elf.segments] == [(0, 4096), (0xFFFC0000, 8192)]
    elf.skip_to(elf.segments[1].offset)
    got = bytearray(8192)
    elf.fill(memoryview(got))
    assert bytes(got) == b"b" * 8192


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ends early"),
        (b"KDUMP   " * 100, "not a little-endian ELF"),
        (core((0, b"a" * 4096))[:100], "ends early"),
        (core((0, b"a" * 4096), phnum=0), "0 program headers"),
        (core((0, b"a" * 4096), phnum=0xFFFF), "count of segments"),
        (core()[:16] + b"\x01" + core()[17:], "not a core"),
    ],
)
def test_invalid_dump_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(GuestError, match=words) as caught:
        stream(content)
    assert caught.value.reason is Reason.DUMP
    assert "\n" not in str(caught.value)


def test_truncated_dump_is_detected() -> None:
    elf = stream(core((0, b"a" * 4096))[:-1])
    elf.skip_to(elf.segments[0].offset)
    with pytest.raises(GuestError, match="ends early"):
        elf.fill(memoryview(bytearray(4096)))


WHOLE = core((0, b"a" * 64), (4096, b"b" * 64))


@given(st.binary(max_size=300))
@example(WHOLE)
def test_any_dump_parses_or_raises(content: bytes) -> None:
    try:
        stream(content)
    except GuestError as error:
        assert error.reason is Reason.DUMP
        assert content != WHOLE


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
@example([])
def test_damaged_dump_parses_or_raises(damage: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE)
    for at, octet in damage:
        content[at] = octet
    try:
        elf = stream(bytes(content))
        for segment in elf.segments:
            elf.skip_to(segment.offset)
            elf.skip_to(segment.offset + segment.size)
    except GuestError as error:
        assert error.reason is Reason.DUMP
        assert damage


def segments(*spans: tuple[int, int]) -> list[Segment]:
    return [Segment(offset, address, size) for offset, (address, size) in enumerate(spans)]


def test_roms_and_video_are_not_ram() -> None:
    placed = ram_segments(segments((0, 96 * MIB), (0xFD000000, 16 * MIB), (0xFFFC0000, 256 * KIB)), 96 * MIB)
    assert [(segment.address, offset) for segment, offset in placed] == [(0, 0)]


def test_ram_continues_behind_display_window() -> None:
    placed = ram_segments(segments((0, 0xA0000), (0xC0000, 96 * MIB - 0xC0000), (0xFD000000, 16 * MIB)), 96 * MIB)
    assert [offset for _, offset in placed] == [0, 0xC0000]


def test_ram_continues_at_4_gib() -> None:
    spans = ((0, 2 * GIB), (0xFFFC0000, 256 * KIB), (4 * GIB, GIB), (6 * GIB, 128 * MIB), (512 * GIB, 64 * MIB))
    placed = ram_segments(segments(*spans), 3 * GIB + 128 * MIB)
    assert [(segment.address, offset) for segment, offset in placed] == [
        (0, 0),
        (4 * GIB, 2 * GIB),
        (6 * GIB, 3 * GIB),
    ]


def test_adjacent_video_memory_is_not_ram() -> None:
    placed = ram_segments(segments((0, 96 * MIB), (96 * MIB, 16 * MIB)), 96 * MIB)
    assert [offset for _, offset in placed] == [0]
    placed = ram_segments(segments((0, GIB), (4 * GIB, GIB), (5 * GIB, 16 * MIB)), 2 * GIB)
    assert [offset for _, offset in placed] == [0, GIB]


@pytest.mark.parametrize("total", [95 * MIB, 97 * MIB])
def test_dump_of_wrong_size_is_refused(total: int) -> None:
    with pytest.raises(GuestError, match="bytes of RAM") as caught:
        ram_segments(segments((0, 96 * MIB)), total)
    assert caught.value.reason is Reason.LAYOUT


MEMORY = b"a" * 4096 + b"b" * 4096 + bytes(4096)


def at_once(expected: float = 0.0, *, dumping: bool = False) -> contextlib.AbstractContextManager[SuspendedDomain]:
    """A pause of a guest that is already suspended."""
    assert dumping
    return contextlib.nullcontext(SuspendedDomain())


def by_dump(
    directory: Path, reader: str, mode: str, *, blocks: tuple[int, ...] = (len(MEMORY),), paused: bool = False
) -> Capture:
    """Scan a guest with `MEMORY` as its dump; its process (this one) does not have RAM of this size."""

    def dump(path: Path) -> None:
        with path.open("wb") as fifo:
            fifo.write(core((0, MEMORY)))

    source = GuestMemory(os.getpid(), blocks, paused=paused, vfio=False)
    control = GuestControl(at_once, dump, directory)
    request = scan_request(mode, reader)
    return capture(source, control, Hashing(best_hasher(), 7, 1, lambda: False), request, ScanState(start_time=0))


@pytest.mark.parametrize(
    ("reader", "mode", "paused"), [("dump", "auto", False), ("dump", "live", True), ("auto", "auto", False)]
)
def test_dump_is_hashed_page_by_page(tmp_path: Path, reader: str, mode: str, paused: bool) -> None:  # noqa: FBT001
    found = by_dump(tmp_path, reader, mode, paused=paused)
    assert (found.mode, found.reader, found.bytes_read) == ("snapshot", "dump", len(MEMORY))
    assert len(set(found.digest.pages.tolist())) == 3


@pytest.mark.parametrize("mode", ["live", "sliced"])
def test_dump_respects_the_pause_limit(tmp_path: Path, mode: str) -> None:
    with pytest.raises(GuestError, match=f"use `--reader process` for mode {mode}") as caught:
        by_dump(tmp_path, "dump", mode)
    assert caught.value.reason is Reason.DUMP
    with pytest.raises(GuestError, match=r"0 mappings.*; use `--mode snapshot --reader dump`") as caught:
        by_dump(tmp_path, "auto", mode)
    assert caught.value.reason is Reason.LAYOUT


def test_long_dump_needs_explicit_reader(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"0 mappings.*; use `--reader dump`.*suspend it for about 68.7 s") as caught:
        by_dump(tmp_path, "auto", "auto", blocks=(64 * GIB,))
    assert caught.value.reason is Reason.LAYOUT


def test_pipe_resize_failure_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert by_dump(tmp_path, "dump", "snapshot").bytes_read == len(MEMORY)
