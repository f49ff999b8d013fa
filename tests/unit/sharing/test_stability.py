from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from samepaged.sharing import Contents, Member, analyse, stable
from tests.unit.sharing.oracle import CONTENTS, ZEROS, digest, hash_maps, inter_sharing, memories, self_sharing

if TYPE_CHECKING:
    from tests.unit.sharing.oracle import Hashes, Page

P, Q, R = CONTENTS[:3]
HASHES = {P: 10, Q: 20, R: 30}
# A guest at two scans: the earlier and the later content of each page, often the same.
page = st.sampled_from([P, Q, R, ZEROS, b"", None])
histories = st.lists(st.tuples(page, page) | page.map(lambda kept: (kept, kept)), max_size=24)


def stable_contents(before: list[Page], after: list[Page], hashes: Hashes = HASHES) -> Contents:
    return Contents.of(stable(digest(before, hashes), digest(after, hashes)))


@given(st.lists(histories, max_size=5), hash_maps)
def test_stable_sharing_equals_unchanged_bytes(guests: list[list[tuple[Page, Page]]], hashes: Hashes) -> None:
    kept = [[after for before, after in history if before == after] for history in guests]
    members = [
        Member(str(number), "", stable_contents([was for was, _ in history], [now for _, now in history], hashes))
        for number, history in enumerate(guests)
    ]
    report = analyse(members, 4096, threads=1)
    assert report.self_sharing_pages == sum(self_sharing(pages) for pages in kept)
    assert report.inter_sharing_pages == inter_sharing(kept)
    assert report.total_sharing_pages == report.self_sharing_pages + report.inter_sharing_pages


@given(memories, memories, hash_maps)
def test_stable_sharing_is_part_of_the_sharing(before: list[Page], after: list[Page], hashes: Hashes) -> None:
    assert stable_contents(before, after, hashes).duplicate_pages <= self_sharing(after)


@given(memories, hash_maps)
def test_unchanged_guest_is_all_stable(pages: list[Page], hashes: Hashes) -> None:
    assert stable_contents(pages, pages, hashes).memory_pages == len(pages)


def test_a_changed_page_is_neither_distinct_nor_a_duplicate() -> None:
    contents = stable_contents([P, P, P, Q, ZEROS], [P, P, Q, R, P])
    assert (contents.memory_pages, contents.distinct_pages, contents.duplicate_pages) == (2, 1, 1)


def test_pages_that_changed_places_are_not_stable() -> None:
    assert stable_contents([P, Q], [Q, P]).memory_pages == 0


def test_grown_guest_has_no_stable_sharing() -> None:
    assert stable_contents([P, P], [P, P, P]).memory_pages == 0


def test_page_size_change_has_no_stable_sharing() -> None:
    found = stable(digest([P, P], HASHES, page_size=8192), digest([P, P], HASHES, page_size=4096))
    assert (len(found.pages), found.page_size) == (0, 4096)
