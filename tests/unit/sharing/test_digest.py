from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.sharing import ABSENT, FIRST_HASH, SWAPPED, ZERO, Contents, PageDigest, count_all
from samepaged.sharing import digest as digest_module
from tests.unit.sharing.oracle import digest, hash_maps, memories, nonzero, self_sharing

if TYPE_CHECKING:
    from tests.unit.sharing.oracle import Hashes, Page


def pages_of(*values: int) -> PageDigest:
    return PageDigest(np.array(values, dtype=np.uint64), 4096)


@given(memories, hash_maps, st.booleans())
def test_each_page_is_counted_in_its_one_state(pages: list[Page], hashes: Hashes, in_place: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    contents = Contents.of(digest(pages, hashes), in_place=in_place)
    assert contents.memory_pages == len(pages)
    assert contents.absent_pages == pages.count(b"")
    assert contents.swapped_pages == pages.count(None)
    assert contents.zero_pages == sum(page is not None and page != b"" and not any(page) for page in pages)
    assert contents.duplicate_pages == self_sharing(pages)
    assert contents.distinct.tolist() == sorted(hashes[page] for page in set(nonzero(pages)))


@given(memories, hash_maps)
def test_the_five_states_add_up_to_the_memory(pages: list[Page], hashes: Hashes) -> None:
    contents = Contents.of(digest(pages, hashes))
    states = (contents.absent_pages, contents.swapped_pages, contents.zero_pages)
    assert sum(states) + contents.distinct_pages + contents.duplicate_pages == contents.memory_pages


def test_large_hashes_keep_every_bit() -> None:
    top = 2**64 - 1
    contents = Contents.of(pages_of(top, top - 1, top, 2**63, FIRST_HASH, ZERO, SWAPPED, ABSENT))
    assert contents.distinct.dtype == np.uint64
    assert contents.distinct.tolist() == [FIRST_HASH, 2**63, top - 1, top]
    assert contents.duplicate_pages == 1


def test_digest_is_not_modified() -> None:
    found = pages_of(9, 3, 9, ZERO)
    contents = Contents.of(found)
    assert found.pages.tolist() == [9, 3, 9, ZERO]
    assert not np.shares_memory(contents.distinct, found.pages)


def test_read_only_digest_is_counted() -> None:
    found = pages_of(9, 3, 9)
    found.pages.flags.writeable = False
    assert Contents.of(found).distinct.tolist() == [3, 9]


def test_in_place_count_allocates_nothing() -> None:
    found = pages_of(9, ZERO, 3, 9, 7)
    contents = Contents.of(found, in_place=True)
    assert contents.distinct.tolist() == [3, 7, 9]
    assert np.shares_memory(contents.distinct, found.pages)


@pytest.mark.parametrize("block", [1, 2, 3, 5])
@pytest.mark.parametrize("in_place", [False, True])
def test_duplicates_across_blocks_are_counted(
    monkeypatch: pytest.MonkeyPatch,
    block: int,
    in_place: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    monkeypatch.setattr(digest_module, "BLOCK_PAGES", block)
    contents = Contents.of(pages_of(4, 4, 4, 5, 6, 6, 6, 6, 7, 8, 8, ABSENT, ZERO), in_place=in_place)
    assert contents.distinct.tolist() == [4, 5, 6, 7, 8]
    assert contents.is_repeated.tolist() == [True, False, True, False, True]
    assert contents.duplicate_pages == 6


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_count_all_keeps_the_order(threads: int | None) -> None:
    digests = [pages_of(*range(FIRST_HASH, FIRST_HASH + count)) for count in (5, 0, 9, 2)]
    assert [contents.distinct_pages for contents in count_all(digests, threads=threads)] == [5, 0, 9, 2]


def test_zero_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="0 is not a valid number of threads; give at least 1"):
        count_all([pages_of(3)], threads=0)
