from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import Unreadable
from samepaged.attribution.linux.paging import walk
from samepaged.attribution.linux.virtual_memory import VirtualMemory
from tests.unit.attribution.builders import Machine

START = 0xFFFF_8880_0000_0000
# Three virtual pages, the first two in reverse order in RAM, a hole, and one more.
PLACES = (5, 4, 9, None, 7)


def memory() -> tuple[VirtualMemory, bytes]:
    machine = Machine(64)
    root = machine.page()
    content = np.random.default_rng(1).integers(1, 256, size=len(PLACES) * PAGE_SIZE, dtype=np.uint8).tobytes()
    for number, page in enumerate(PLACES):
        if page is not None:
            machine.map(root, START + number * PAGE_SIZE, page * PAGE_SIZE)
            machine.put(page * PAGE_SIZE, content[number * PAGE_SIZE : (number + 1) * PAGE_SIZE])
    ram = machine.ram()
    return VirtualMemory(ram, walk(ram, root, 4, upper=True, mask=0xF_FFFF_FFFF_F000)), content


MEMORY, CONTENT = memory()


def at(*offsets: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([START + offset for offset in offsets], dtype=np.uint64)


def test_gathered_pieces_cross_pages() -> None:
    found, ok = MEMORY.gather(at(8, PAGE_SIZE - 8, 2 * PAGE_SIZE - 16, 4 * PAGE_SIZE), 24)
    assert ok.all()
    assert [row.tobytes() for row in found] == [
        CONTENT[a : a + 24] for a in (8, PAGE_SIZE - 8, 2 * PAGE_SIZE - 16, 4 * PAGE_SIZE)
    ]


def test_pieces_in_a_hole_are_zeros() -> None:
    found, ok = MEMORY.gather(at(0, 3 * PAGE_SIZE - 8, 3 * PAGE_SIZE, -8, 5 * PAGE_SIZE - 8), 16)
    assert ok.tolist() == [True, False, False, False, False]
    assert not found[1:].any()


def test_gather_of_no_addresses() -> None:
    found, ok = MEMORY.gather(np.empty(0, dtype=np.uint64), 16)
    assert (found.shape, ok.shape) == ((0, 2), (0,))
    assert MEMORY.strings(np.empty(0, dtype=np.uint64)) == []


def test_one_word_equals_many() -> None:
    for offset in (0, 16, PAGE_SIZE - 8, 2 * PAGE_SIZE + 8, 3 * PAGE_SIZE, 4, 4 * PAGE_SIZE, 5 * PAGE_SIZE, -8):
        (word,), (ok,) = MEMORY.words(at(offset))
        assert MEMORY.word(START + offset) == (int(word) if ok else None)
    assert MEMORY.word(0x400000) is None


def test_words_of_8_and_4_bytes() -> None:
    words, ok = MEMORY.words(at(16, 3 * PAGE_SIZE, 4))
    assert (words.tolist(), ok.tolist()) == ([int.from_bytes(CONTENT[16:24], "little"), 0, 0], [True, False, False])
    halves, ok = MEMORY.words32(at(16, 20, PAGE_SIZE - 4, 3 * PAGE_SIZE, 18))
    wanted = [int.from_bytes(CONTENT[a : a + 4], "little") for a in (16, 20, PAGE_SIZE - 4)]
    assert (halves.tolist(), ok.tolist()) == ([*wanted, 0, 0], [True, True, True, False, False])
    assert MEMORY.u64(START + PAGE_SIZE - 3) == int.from_bytes(CONTENT[PAGE_SIZE - 3 : PAGE_SIZE + 5], "little")
    assert MEMORY.u32(START + 5) == int.from_bytes(CONTENT[5:9], "little")


@given(st.integers(0, 3 * PAGE_SIZE), st.integers(0, 3 * PAGE_SIZE))
def test_virtual_reads_cross_pages_not_holes(start: int, size: int) -> None:
    if start + size <= 3 * PAGE_SIZE:
        assert MEMORY.read(START + start, size) == CONTENT[start : start + size]
    elif size:
        with pytest.raises(Unreadable):
            MEMORY.read(START + start, size)


@pytest.mark.parametrize(
    ("address", "size"), [(-1, 1), (1 << 64, 1), ((1 << 64) - 1, 2), (START, -1), (START, 1 << 40)]
)
def test_unmapped_address_is_unreadable(address: int, size: int) -> None:
    with pytest.raises(Unreadable):
        MEMORY.read(address, size)


def test_strings_end_at_zero_or_limit() -> None:
    machine = Machine(64)
    root = machine.page()
    for number in range(2):
        machine.map(root, START + number * PAGE_SIZE, (8 - number) * PAGE_SIZE)
    machine.put(8 * PAGE_SIZE, b"\0init\0caf\xc3\xa9\0b\xff\0")
    machine.put(8 * PAGE_SIZE + 50, b"x" * 300 + b"\0")
    machine.put(9 * PAGE_SIZE - 5, b"alpha")
    machine.put(7 * PAGE_SIZE, b"bet\0")
    machine.put(8 * PAGE_SIZE - 3, b"end")
    ram = machine.ram()
    found = VirtualMemory(ram, walk(ram, root, 4, upper=True, mask=0xF_FFFF_FFFF_F000))
    asked = at(1, 0, 6, 12, 50, PAGE_SIZE - 5, 2 * PAGE_SIZE - 3, 5 * PAGE_SIZE, 1)
    assert found.strings(asked) == ["init", "", "café", "b\ufffd", "x" * 256, "alphabet", None, None, "init"]
    assert found.strings(asked, most=4)[4:6] == ["xxxx", "alph"]
