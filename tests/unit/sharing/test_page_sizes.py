from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.sharing import (
    ABSENT,
    FIRST_HASH,
    SWAPPED,
    ZERO,
    PageDigest,
    PageSizeSharing,
    by_page_size,
    coarsen,
    page_sizes,
)
from tests.unit.sharing.oracle import CONTENTS, ZEROS, digest, hash_maps, inter_sharing, memories, self_sharing

if TYPE_CHECKING:
    from tests.unit.sharing.oracle import Hashes, Page

HASHES = {content: 100 + number for number, content in enumerate(CONTENTS)}
P, Q = CONTENTS[0], CONTENTS[1]
# Few contents and a ratio of at most 8, so that larger pages repeat.
few = st.lists(st.sampled_from([P, Q, ZEROS, b"", None]) | st.sampled_from([P, ZEROS]), max_size=48)
ratios = st.sampled_from([1, 2, 4, 8])


def joined(pages: list[Page], ratio: int) -> list[Page]:
    """The same memory in larger pages, as bytes."""
    units = [pages[at : at + ratio] for at in range(0, len(pages) - ratio + 1, ratio)]
    return [larger(unit) for unit in units]


def larger(unit: list[Page]) -> Page:
    if None in unit:
        return None
    return b"".join(page or ZEROS for page in unit if page is not None) if any(unit) else b""


def value(pages: list[Page], ratio: int | None = None) -> int:
    """The hash of one larger page."""
    ratio = ratio or len(pages)
    return int(coarsen(digest(pages, HASHES), ratio * 4096).pages[0])


@given(few, ratios, hash_maps)
def test_combined_hashes_equal_iff_bytes_equal(pages: list[Page], ratio: int, hashes: Hashes) -> None:
    expected = joined(pages, ratio)
    found = coarsen(digest(pages, hashes), 4096 * ratio)
    assert found.page_size == 4096 * ratio
    assert len(found.pages) == len(expected)
    of_value: dict[int, Page] = {ABSENT: b"", SWAPPED: None, ZERO: ZEROS * ratio}
    of_page: dict[Page, int] = {page: number for number, page in of_value.items()}
    for number, page in zip(found.pages.tolist(), expected, strict=True):
        assert of_value.setdefault(number, page) == page
        assert of_page.setdefault(page, number) == number


@given(few, ratios, ratios)
def test_doubling_is_associative(pages: list[Page], first: int, then: int) -> None:
    base = digest(pages, HASHES)
    steps = coarsen(coarsen(base, 4096 * first), 4096 * first * then)
    assert steps.pages.tolist() == coarsen(base, 4096 * first * then).pages.tolist()


@given(st.lists(few, max_size=4), ratios)
def test_page_size_sharing_equals_byte_comparison(guests: list[list[Page]], ratio: int) -> None:
    digests = [digest(pages, HASHES) for pages in guests]
    before = [found.pages.tolist() for found in digests]
    (found,) = by_page_size(digests, [4096 * ratio], threads=1)
    units = [joined(pages, ratio) for pages in guests]
    assert found.page_size == 4096 * ratio
    assert found.memory_pages == sum(map(len, units))
    assert found.self_sharing_pages == sum(self_sharing(pages) for pages in units)
    assert found.inter_sharing_pages == inter_sharing(units)
    assert [found.pages.tolist() for found in digests] == before


def test_reports_keep_page_size_order() -> None:
    digests = [digest([P, Q] * 4, HASHES)] * 2
    assert by_page_size(digests, [16384, 8192, 4096]) == (
        PageSizeSharing(16384, memory_pages=4, zero_pages=0, self_sharing_pages=2, inter_sharing_pages=1),
        PageSizeSharing(8192, memory_pages=8, zero_pages=0, self_sharing_pages=6, inter_sharing_pages=1),
        PageSizeSharing(4096, memory_pages=16, zero_pages=0, self_sharing_pages=12, inter_sharing_pages=2),
    )


def test_half_order_changes_the_hash() -> None:
    assert len({value([P, Q]), value([Q, P]), value([P, P]), value([Q, Q])}) == 4
    assert value([P, Q, P, P]) != value([P, P, P, Q])


def test_zero_half_position_changes_the_hash() -> None:
    places = [[P if at == place else ZEROS for at in range(8)] for place in range(8)]
    assert len({value(list(pages)) for pages in places}) == 8


def test_absent_halves_read_as_zeros() -> None:
    assert value([b"", b""]) == ABSENT
    assert value([b"", ZEROS]) == value([ZEROS, b""]) == value([ZEROS, ZEROS]) == ZERO
    assert value([P, b""]) == value([P, ZEROS])
    assert value([b"", b"", P, b""]) == value([ZEROS, ZEROS, P, ZEROS])


def test_swapped_half_makes_page_swapped() -> None:
    for pages in ([None, P], [P, None], [None, b""], [ZEROS, None], [P, P, P, None], [b"", b"", None, b""]):
        assert value(list(pages)) == SWAPPED


def test_incomplete_last_page_is_dropped() -> None:
    found = coarsen(digest([P, Q, P], HASHES), 8192)
    assert found.pages.tolist() == [value([P, Q])]
    assert len(coarsen(digest([P], HASHES), 8192).pages) == 0


def test_combined_hash_avoids_reserved_values(monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(values: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        return np.arange(len(values), dtype=np.uint64)

    monkeypatch.setattr(page_sizes, "_mix_bits", constant)
    found = coarsen(digest([P, Q] * 4, HASHES), 8192)
    assert found.pages.min() >= FIRST_HASH


@pytest.mark.parametrize("block", [1, 2, 8])
def test_block_size_does_not_change_hashes(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    base = digest([P, Q, ZEROS, P, b"", b"", None, P, Q, Q, P, P] * 5, HASHES)
    whole = coarsen(base, 16384).pages.tolist()
    monkeypatch.setattr(page_sizes, "BLOCK_PAGES", block)
    assert coarsen(base, 16384).pages.tolist() == whole


def test_combined_hashes_use_all_bits() -> None:
    pages = np.random.default_rng(1).integers(FIRST_HASH, 2000, 200_000, dtype=np.uint64)
    found = coarsen(PageDigest(pages, 4096), 8192).pages
    assert len(set(found.tolist())) == len(set(zip(pages[0::2].tolist(), pages[1::2].tolist(), strict=True)))
    ones = [int((found >> np.uint64(bit) & np.uint64(1)).sum()) for bit in range(64)]
    assert all(abs(count - 50_000) < 1_000 for count in ones)


@pytest.mark.parametrize("page_size", [12288, 2048, 4097, 0, -8192])
def test_page_size_must_be_doubled(page_size: int) -> None:
    with pytest.raises(ValueError, match=f"pages of {page_size} bytes cannot be made of pages of 4096; choose 4096"):
        coarsen(digest([P], HASHES), page_size)


@given(memories, hash_maps)
def test_same_page_size_gives_a_copy(pages: list[Page], hashes: Hashes) -> None:
    base = digest(pages, hashes)
    found = coarsen(base, 4096)
    assert found.pages.tolist() == base.pages.tolist()
    assert not np.shares_memory(found.pages, base.pages)
