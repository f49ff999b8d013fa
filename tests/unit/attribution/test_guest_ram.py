from __future__ import annotations

import numpy as np
import pytest

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.guest_ram import PAGE_WORDS, GuestRam, Unreadable
from samepaged.attribution.ram_map import RamMap, RamRegion

# Two pages at 0, two at 1 MiB. Each word has its own number.
LAYOUT = RamMap((RamRegion(0, 2 * PAGE_SIZE), RamRegion(1 << 20, 2 * PAGE_SIZE)))
ALL = np.arange(4 * PAGE_WORDS, dtype=np.uint64).reshape(4, PAGE_WORDS)


def partial(*held: int) -> GuestRam:
    slots = np.full(4, -1, dtype=np.int32)
    slots[list(held)] = np.arange(len(held))
    return GuestRam(ALL[list(held)], LAYOUT, slots)


def test_words_by_guest_physical_address() -> None:
    found, ok = GuestRam(ALL, LAYOUT).gather(np.array([8, (1 << 20) + 16]), 16)
    assert ok.all()
    assert found.tolist() == [[1, 2], [2 * PAGE_WORDS + 2, 2 * PAGE_WORDS + 3]]


@pytest.mark.parametrize("address", [-8, 4, PAGE_SIZE - 8, 2 * PAGE_SIZE, (1 << 20) + 2 * PAGE_SIZE, 1 << 60])
def test_unreadable_pieces_are_zeros(address: int) -> None:
    found, ok = GuestRam(ALL, LAYOUT).gather(np.array([address, 8]), 16)
    assert ok.tolist() == [False, True]
    assert found.tolist() == [[0, 0], [1, 2]]


@pytest.mark.parametrize(
    "address",
    [0, 8, PAGE_SIZE - 8, (1 << 20) + PAGE_SIZE, -8, 4, 2 * PAGE_SIZE, (1 << 20) + 2 * PAGE_SIZE, 1 << 60],
)
@pytest.mark.parametrize("held", [(0, 1, 2, 3), (3, 0)])
def test_one_word_equals_gathered_word(address: int, held: tuple[int, ...]) -> None:
    ram, other = partial(*held), partial(*held)
    (found,), ok = other.gather(np.array([address]), 8)
    assert ram.word(address) == (int(found[0]) if ok[0] else None)
    assert ram.touched.tolist() == other.touched.tolist()
    assert ram.missing.tolist() == other.missing.tolist()


def test_reads_cross_pages_not_holes() -> None:
    ram = GuestRam(ALL, LAYOUT)
    assert ram.read(PAGE_SIZE - 8, 16) == ALL.tobytes()[PAGE_SIZE - 8 : PAGE_SIZE + 8]
    assert ram.read(PAGE_SIZE, 0) == b""
    for address, size in [(PAGE_SIZE, PAGE_SIZE + 1), (-1, 4), (0, -1), (0, 1 << 50), (1 << 51, 1 << 51)]:
        with pytest.raises(Unreadable):
            ram.read(address, size)


def test_touched_and_missing_pages_are_marked() -> None:
    ram = partial(2)
    assert ram.ensure_copied(np.array([2, 0, -1, 4, 2])).tolist() == [0, -1, -1, -1, 0]
    assert ram.touched.tolist() == [True, False, True, False]
    assert ram.missing.tolist() == [True, False, False, False]


def test_no_pages_means_unreadable() -> None:
    found, ok = partial().gather(np.array([0]), 8)
    assert (found.tolist(), ok.tolist()) == ([[0]], [False])


def test_missing_pages_are_fetched_once() -> None:
    words, slots = np.zeros((4, PAGE_WORDS), dtype=np.uint64), np.full(4, -1, dtype=np.int64)
    asked = []

    def fetch(pages: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        asked.append(pages.tolist())
        have = pages[pages != 1]
        words[have] = ALL[have]
        slots[have] = have

    ram = GuestRam(words, LAYOUT, slots, fetch)
    assert ram.ensure_copied(np.array([3, 0, 3, 1])).tolist() == [3, 0, 3, -1]
    assert ram.read(0, 16) == ALL.tobytes()[:16]
    assert asked == [[0, 1, 3]]
    assert ram.missing.tolist() == [False, True, False, False]
