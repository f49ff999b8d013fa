from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.errors import GuestError, Reason
from samepaged.memory.dump_reader import place
from samepaged.memory.elf import ElfStream, Segment

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


def core(*loads: tuple[int, bytes], phnum: int | None = None, bits: int = 64) -> bytes:
    """An ELF core as QEMU writes it: headers, a note, then the segments' bytes one after another."""
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
def test_segments_and_their_bytes_come_out_as_they_were_put_in(bits: int) -> None:
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
        (b"KDUMP   " * 100, "no little-endian ELF"),
        (core((0, b"a" * 4096))[:100], "ends early"),
        (core((0, b"a" * 4096), phnum=0), "0 program headers"),
        (core((0, b"a" * 4096), phnum=0xFFFF), "count of segments"),
        (core()[:16] + b"\x01" + core()[17:], "not a core"),
    ],
)
def test_what_is_no_dump_is_refused_in_one_line(content: bytes, words: str) -> None:
    with pytest.raises(GuestError, match=words) as caught:
        stream(content)
    assert caught.value.reason is Reason.DUMP
    assert "\n" not in str(caught.value)


def test_a_dump_that_ends_early_is_noticed() -> None:
    elf = stream(core((0, b"a" * 4096))[:-1])
    elf.skip_to(elf.segments[0].offset)
    with pytest.raises(GuestError, match="ends early"):
        elf.fill(memoryview(bytearray(4096)))


@given(st.binary(max_size=300))
def test_any_bytes_are_segments_or_a_typed_error(content: bytes) -> None:
    try:
        stream(content)
    except GuestError as error:
        assert error.reason is Reason.DUMP


@given(st.data())
def test_a_damaged_dump_is_segments_or_a_typed_error(data: st.DataObject) -> None:
    content = bytearray(core((0, b"a" * 64), (4096, b"b" * 64)))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        elf = stream(bytes(content))
        for segment in elf.segments:
            elf.skip_to(segment.offset)
            elf.skip_to(segment.offset + segment.size)
    except GuestError as error:
        assert error.reason is Reason.DUMP


def segments(*spans: tuple[int, int]) -> list[Segment]:
    return [Segment(offset, address, size) for offset, (address, size) in enumerate(spans)]


def test_roms_and_video_memory_are_not_ram() -> None:
    placed = place(segments((0, 96 * MIB), (0xFD000000, 16 * MIB), (0xFFFC0000, 256 * KIB)), 96 * MIB)
    assert [(segment.address, offset) for segment, offset in placed] == [(0, 0)]


def test_ram_goes_on_behind_the_window_of_a_display() -> None:
    placed = place(segments((0, 0xA0000), (0xC0000, 96 * MIB - 0xC0000), (0xFD000000, 16 * MIB)), 96 * MIB)
    assert [offset for _, offset in placed] == [0, 0xC0000]


def test_ram_goes_on_at_4_gib_and_comes_before_64_bit_bars() -> None:
    spans = ((0, 2 * GIB), (0xFFFC0000, 256 * KIB), (4 * GIB, GIB), (6 * GIB, 128 * MIB), (512 * GIB, 64 * MIB))
    placed = place(segments(*spans), 3 * GIB + 128 * MIB)
    assert [(segment.address, offset) for segment, offset in placed] == [
        (0, 0),
        (4 * GIB, 2 * GIB),
        (6 * GIB, 3 * GIB),
    ]


@pytest.mark.parametrize("total", [95 * MIB, 97 * MIB])
def test_a_dump_of_another_size_than_the_guests_is_refused(total: int) -> None:
    with pytest.raises(GuestError, match="bytes of RAM") as caught:
        place(segments((0, 96 * MIB)), total)
    assert caught.value.reason is Reason.LAYOUT
