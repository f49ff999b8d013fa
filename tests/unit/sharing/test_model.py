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


def test_paper_example_of_three_guests() -> None:
    report = report_of({"A": ("", [P] * 3), "B": ("", [P] * 3), "C": ("", [Q] * 3)})
    assert [guest.duplicate_pages for guest in report.guests] == [2, 2, 2]
    assert report.self_sharing_pages == 6
    assert report.inter_sharing_pages == 1
    assert report.total_sharing_pages == 7
    assert report.pairs == (PairSharing(("A", "B"), 1),)


def test_paper_example_of_identical_guests() -> None:
    ten = list(HASHES)[:10]
    report = report_of({"A": ("", ten), "B": ("", ten)})
    assert (report.self_sharing_pages, report.inter_sharing_pages) == (0, 10)
    assert report.total_sharing_pages / sum(guest.memory_pages for guest in report.guests) == 0.5


def test_paper_example_of_tripled_memory() -> None:
    thirty = list(HASHES)[:10] * 3
    report = report_of({"A": ("", thirty), "B": ("", thirty)})
    memory = sum(guest.memory_pages for guest in report.guests)
    assert (memory, report.self_sharing_pages, report.inter_sharing_pages) == (60, 40, 10)
    assert round(100 * report.self_sharing_pages / memory) == 67
    assert round(100 * report.inter_sharing_pages / memory) == 17


# Against bytes.


@given(hosts(), hash_maps, st.sampled_from([1, 2]))
def test_host_sharing_equals_byte_comparison(host: Host, hashes: Hashes, threads: int) -> None:
    report = report_of(host, hashes, threads=threads)
    memories = [pages for _, pages in host.values()]
    assert report.self_sharing_pages == sum(self_sharing(pages) for pages in memories)
    assert report.inter_sharing_pages == inter_sharing(memories)


@given(hosts(), hash_maps)
def test_group_sharing_equals_byte_comparison(host: Host, hashes: Hashes) -> None:
    report = report_of(host, hashes)
    assert [group.name for group in report.groups] == sorted({group for group, _ in host.values()})
    for group in report.groups:
        memories = [pages for name, pages in host.values() if name == group.name]
        assert group.self_sharing_pages == sum(self_sharing(pages) for pages in memories)
        assert group.inter_sharing_pages == inter_sharing(memories)


@given(hosts(), hash_maps)
def test_sharing_pairs_are_sorted(host: Host, hashes: Hashes) -> None:
    report = report_of(host, hashes)
    expected = oracle.pairs({name: pages for name, (_, pages) in host.items()})
    assert {pair.domains: pair.inter_sharing_pages for pair in report.pairs} == expected
    keys = [(-pair.inter_sharing_pages, pair.domains) for pair in report.pairs]
    assert keys == sorted(keys)


@given(hosts(), hash_maps)
def test_shared_with_others_is_per_group(host: Host, hashes: Hashes) -> None:
    for guest in report_of(host, hashes).guests:
        others = [pages for name, (group, pages) in host.items() if name != guest.name and group == guest.group]
        assert guest.shared_with_others_pages == oracle.shared_with(host[guest.name][1], others)


@given(hosts(), hash_maps)
def test_recurring_pages_across_the_host(host: Host, hashes: Hashes) -> None:
    for guest in report_of(host, hashes).guests:
        others = [pages for name, (_, pages) in host.items() if name != guest.name]
        assert guest.recurring_pages == oracle.recurring(host[guest.name][1], others)


@given(hosts(), hash_maps)
def test_guests_keep_order_and_states(host: Host, hashes: Hashes) -> None:
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
def test_sharing_is_bounded(host: Host, hashes: Hashes) -> None:
    report = report_of(host, hashes)
    distinct = [guest.distinct_pages for guest in report.guests]
    assert 0 <= report.inter_sharing_pages <= sum(distinct) - max(distinct, default=0)


@given(hosts(), hash_maps, st.randoms(use_true_random=False))
def test_order_changes_nothing(host: Host, hashes: Hashes, random: object) -> None:
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
def test_merging_groups_never_lowers_sharing(host: Host, hashes: Hashes) -> None:
    def within(guests: Host) -> int:
        return sum(group.inter_sharing_pages for group in report_of(guests, hashes).groups)

    for a, b in combinations(sorted({group for group, _ in host.values()}), 2):
        merged = {name: (a if group == b else group, pages) for name, (group, pages) in host.items()}
        assert within(host) <= within(merged) <= report_of(host, hashes).inter_sharing_pages


@given(hosts(), hash_maps)
def test_pairs_are_optional(host: Host, hashes: Hashes) -> None:
    whole, without = report_of(host, hashes), report_of(host, hashes, pairs=False)
    assert without.pairs == ()
    assert (without.guests, without.groups) == (whole.guests, whole.groups)
    assert without.total_sharing_pages == whole.total_sharing_pages


# Edges.


def test_no_guests_have_no_sharing() -> None:
    report = analyse([], 4096)
    assert (report.page_size, report.guests, report.groups, report.pairs) == (4096, (), (), ())
    assert report.total_sharing_pages == 0


def test_single_guest_has_only_self_sharing() -> None:
    report = report_of({"A": ("", [P, P, Q])})
    assert (report.self_sharing_pages, report.inter_sharing_pages) == (1, 0)


def test_unhashed_pages_are_not_shared() -> None:
    idle = [oracle.ZEROS, b"", None] * 5
    report = report_of({"A": ("", idle), "B": ("", idle)})
    assert report.total_sharing_pages == 0
    assert report.pairs == ()


def test_cross_group_sharing_is_host_only() -> None:
    report = report_of({"A": ("red", [P, Q]), "B": ("blue", [Q])})
    assert report.inter_sharing_pages == 1
    assert [(group.name, group.inter_sharing_pages) for group in report.groups] == [("blue", 0), ("red", 0)]
    assert [guest.shared_with_others_pages for guest in report.guests] == [0, 0]
    assert report.pairs == (PairSharing(("A", "B"), 1),)


def test_repeated_guest_name_is_refused() -> None:
    twins = [member("web", group, [P], HASHES) for group in ("red", "blue")]
    with pytest.raises(ValueError, match="two guests are named 'web'; give each guest a unique name"):
        analyse(twins, 4096)


def test_chain_of_pairwise_sharing() -> None:
    hashes = {number.to_bytes(2, "big"): 2**60 + 2**50 * number for number in range(1, 202)}
    contents = list(hashes)
    host = {f"guest{number:03}": ("", contents[number : number + 2]) for number in range(200)}
    report = report_of(host, hashes)
    assert report.inter_sharing_pages == 199
    assert len(report.pairs) == 199
    assert {pair.inter_sharing_pages for pair in report.pairs} == {1}
