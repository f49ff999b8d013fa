from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.sharing import Contents, PairSharing, SharingReport, analyse
from tests.unit.sharing import oracle
from tests.unit.sharing.oracle import digest, hash_maps, hosts, inter_sharing, member, self_sharing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.unit.sharing.oracle import Hashes, Page

    Host = Mapping[str, tuple[str, Sequence[Page]]]

P, Q = b"\1\0\0", b"\2\0\0"
HASHES = {bytes([number, 0, 0]): 1000 + number for number in range(1, 100)}


def report_of(host: Host, hashes: Hashes = HASHES, *, pairs: bool = True, threads: int | None = 1) -> SharingReport:
    members = [member(name, group, pages, hashes) for name, (group, pages) in host.items()]
    return analyse(members, 4096, pairs=pairs, threads=threads)


# The paper's own examples.


def test_three_copies_in_a_and_in_b_and_three_of_another_in_c() -> None:
    report = report_of({"A": ("", [P] * 3), "B": ("", [P] * 3), "C": ("", [Q] * 3)})
    assert [guest.duplicate_pages for guest in report.guests] == [2, 2, 2]
    assert report.self_sharing_pages == 6
    assert report.inter_sharing_pages == 1
    assert report.total_sharing_pages == 7
    assert report.pairs == (PairSharing(("A", "B"), 1),)


def test_two_guests_with_the_same_ten_pages_share_half_of_the_memory_and_only_with_each_other() -> None:
    ten = list(HASHES)[:10]
    report = report_of({"A": ("", ten), "B": ("", ten)})
    assert (report.self_sharing_pages, report.inter_sharing_pages) == (0, 10)
    assert report.total_sharing_pages / sum(guest.memory_pages for guest in report.guests) == 0.5


def test_tripled_memory_shares_two_thirds_with_itself_and_a_sixth_with_the_other_guest() -> None:
    thirty = list(HASHES)[:10] * 3
    report = report_of({"A": ("", thirty), "B": ("", thirty)})
    memory = sum(guest.memory_pages for guest in report.guests)
    assert (memory, report.self_sharing_pages, report.inter_sharing_pages) == (60, 40, 10)
    assert round(100 * report.self_sharing_pages / memory) == 67
    assert round(100 * report.inter_sharing_pages / memory) == 17


# Against bytes.


@given(hosts(), hash_maps, st.sampled_from([1, 2]))
def test_a_host_is_counted_as_its_bytes_are(host: Host, hashes: Hashes, threads: int) -> None:
    report = report_of(host, hashes, threads=threads)
    memories = [pages for _, pages in host.values()]
    assert report.self_sharing_pages == sum(self_sharing(pages) for pages in memories)
    assert report.inter_sharing_pages == inter_sharing(memories)


@given(hosts(), hash_maps)
def test_a_group_is_counted_as_the_bytes_of_its_guests_are(host: Host, hashes: Hashes) -> None:
    report = report_of(host, hashes)
    assert [group.name for group in report.groups] == sorted({group for group, _ in host.values()})
    for group in report.groups:
        memories = [pages for name, pages in host.values() if name == group.name]
        assert group.self_sharing_pages == sum(self_sharing(pages) for pages in memories)
        assert group.inter_sharing_pages == inter_sharing(memories)


@given(hosts(), hash_maps)
def test_every_pair_that_shares_is_listed_across_groups_the_largest_first(host: Host, hashes: Hashes) -> None:
    report = report_of(host, hashes)
    expected = oracle.pairs({name: pages for name, (_, pages) in host.items()})
    assert {pair.domains: pair.inter_sharing_pages for pair in report.pairs} == expected
    keys = [(-pair.inter_sharing_pages, pair.domains) for pair in report.pairs]
    assert keys == sorted(keys)


@given(hosts(), hash_maps)
def test_shared_with_others_is_what_another_guest_of_the_group_has_too(host: Host, hashes: Hashes) -> None:
    for guest in report_of(host, hashes).guests:
        others = [pages for name, (group, pages) in host.items() if name != guest.name and group == guest.group]
        assert guest.shared_with_others_pages == oracle.shared_with(host[guest.name][1], others)


@given(hosts(), hash_maps)
def test_a_page_recurs_whose_content_is_on_the_host_again_in_whatever_guest(host: Host, hashes: Hashes) -> None:
    for guest in report_of(host, hashes).guests:
        others = [pages for name, (_, pages) in host.items() if name != guest.name]
        assert guest.recurring_pages == oracle.recurring(host[guest.name][1], others)


@given(hosts(), hash_maps)
def test_guests_are_reported_in_the_order_given_with_their_pages_by_state(host: Host, hashes: Hashes) -> None:
    report = report_of(host, hashes)
    assert [(guest.name, guest.group) for guest in report.guests] == [(name, host[name][0]) for name in host]
    for guest in report.guests:
        contents = Contents.of(digest(host[guest.name][1], hashes))
        assert guest.memory_pages == contents.memory_pages
        assert guest.absent_pages == contents.absent_pages
        assert guest.swapped_pages == contents.swapped_pages
        assert guest.zero_pages == contents.zero_pages
        assert guest.distinct_pages == contents.distinct_pages
        assert guest.duplicate_pages == contents.duplicate_pages


# Properties.


@given(hosts(), hash_maps)
def test_sharing_is_never_negative_nor_more_than_all_distinct_pages_but_the_largest_guests(
    host: Host, hashes: Hashes
) -> None:
    report = report_of(host, hashes)
    distinct = [guest.distinct_pages for guest in report.guests]
    assert 0 <= report.inter_sharing_pages <= sum(distinct) - max(distinct, default=0)


@given(hosts(), hash_maps, st.randoms(use_true_random=False))
def test_the_order_of_guests_and_of_pages_changes_nothing(host: Host, hashes: Hashes, random: object) -> None:
    shuffle = random.shuffle  # type: ignore[attr-defined] # hypothesis draws a random.Random
    items = [(name, (group, list(pages))) for name, (group, pages) in host.items()]
    shuffle(items)
    for _, (_, pages) in items:
        shuffle(pages)
    before, after = report_of(host, hashes), report_of(dict(items), hashes)
    assert set(before.guests) == set(after.guests)
    assert before.groups == after.groups
    assert before.pairs == after.pairs
    assert before.inter_sharing_pages == after.inter_sharing_pages


@given(hosts(), hash_maps)
def test_merging_two_groups_never_lowers_what_is_shared_within_groups(host: Host, hashes: Hashes) -> None:
    def within(guests: Host) -> int:
        return sum(group.inter_sharing_pages for group in report_of(guests, hashes).groups)

    for a, b in combinations(sorted({group for group, _ in host.values()}), 2):
        merged = {name: (a if group == b else group, pages) for name, (group, pages) in host.items()}
        assert within(host) <= within(merged) <= report_of(host, hashes).inter_sharing_pages


@given(hosts(), hash_maps)
def test_leaving_out_the_pairs_changes_nothing_else(host: Host, hashes: Hashes) -> None:
    whole, without = report_of(host, hashes), report_of(host, hashes, pairs=False)
    assert without.pairs == ()
    assert (without.guests, without.groups) == (whole.guests, whole.groups)
    assert without.total_sharing_pages == whole.total_sharing_pages


# Edges.


def test_no_guests_share_nothing() -> None:
    report = analyse([], 4096)
    assert (report.page_size, report.guests, report.groups, report.pairs) == (4096, (), (), ())
    assert report.total_sharing_pages == 0


def test_a_single_guest_has_only_self_sharing() -> None:
    report = report_of({"A": ("", [P, P, Q])})
    assert (report.self_sharing_pages, report.inter_sharing_pages) == (1, 0)


def test_zero_absent_and_swapped_pages_are_in_no_sharing() -> None:
    idle = [oracle.ZEROS, b"", None] * 5
    report = report_of({"A": ("", idle), "B": ("", idle)})
    assert report.total_sharing_pages == 0
    assert report.pairs == ()


def test_guests_of_two_groups_share_on_the_host_but_in_neither_group() -> None:
    report = report_of({"A": ("red", [P, Q]), "B": ("blue", [Q])})
    assert report.inter_sharing_pages == 1
    assert [(group.name, group.inter_sharing_pages) for group in report.groups] == [("blue", 0), ("red", 0)]
    assert [guest.shared_with_others_pages for guest in report.guests] == [0, 0]
    assert report.pairs == (PairSharing(("A", "B"), 1),)


def test_two_guests_of_one_name_are_refused() -> None:
    twins = [member("web", group, [P], HASHES) for group in ("red", "blue")]
    with pytest.raises(ValueError, match="two guests are named 'web'; give each a name of its own"):
        analyse(twins, 4096)


def test_many_guests_each_sharing_one_page_with_the_next() -> None:
    hashes = {number.to_bytes(2, "big"): 2**60 + 2**50 * number for number in range(1, 202)}
    contents = list(hashes)
    host = {f"guest{number:03}": ("", contents[number : number + 2]) for number in range(200)}
    report = report_of(host, hashes)
    assert report.inter_sharing_pages == 199
    assert len(report.pairs) == 199
    assert {pair.inter_sharing_pages for pair in report.pairs} == {1}
