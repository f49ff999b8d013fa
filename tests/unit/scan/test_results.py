from __future__ import annotations

import dataclasses

from samepaged.errors import Reason
from samepaged.scan.results import SkippedGuest
from samepaged.scan.snapshot import Histogram
from samepaged.sharing import PageSizeSharing, PairSharing
from tests.support.results import guest_id, guest_sharing, host_scan, snapshot, stable_report


def test_departed_domain_leaves_the_snapshot() -> None:
    scan = host_scan(
        "a", "b", "c", pairs=(PairSharing(("a", "b"), 7), PairSharing(("b", "c"), 5), PairSharing(("a", "c"), 3))
    )
    left = snapshot(scan, domains=("a", "b", "c")).without(guest_id("b"))

    assert left.latest is not None
    assert [one.name for one in left.latest.scans] == ["a", "c"]
    assert [guest.name for guest in left.latest.report.guests] == ["a", "c"]
    assert left.latest.report.pairs == (PairSharing(("a", "c"), 3),)
    assert set(left.pauses) == set(left.last_success) == {guest_id("a"), guest_id("c")}
    assert set(left.failures) == {(guest_id("a"), Reason.READ), (guest_id("c"), Reason.READ)}


def test_totals_stay_until_next_analysis() -> None:
    before = host_scan("a", "b")
    left = snapshot(before, domains=("a", "b")).without(guest_id("b")).latest

    assert left is not None
    assert left.report.self_sharing_pages == before.report.self_sharing_pages
    assert left.report.inter_sharing_pages == before.report.inter_sharing_pages
    assert left.report.groups == before.report.groups
    assert left.departed == (guest_sharing("b"),)


def test_departed_domain_leaves_stable_sharing() -> None:
    stable = dataclasses.replace(stable_report("a", "b", "c"), pairs=(PairSharing(("a", "b"), 7),))
    left = host_scan("a", "b", "c", stable=stable).without(guest_id("b")).stable

    assert left is not None
    assert [guest.name for guest in left.guests] == ["a", "c"]
    assert left.pairs == ()
    assert (left.self_sharing_pages, left.inter_sharing_pages) == (135, 7)


def test_page_size_totals_stay() -> None:
    whole = host_scan("a", "b", page_sizes=(PageSizeSharing(8192, 1000, 150, 60, 10),))

    assert whole.without(guest_id("a")).without(guest_id("b")).by_page_size == whole.by_page_size


def test_page_sizes_are_unique() -> None:
    scan = host_scan("a", page_sizes=(PageSizeSharing(4096, 1, 1, 1, 1), PageSizeSharing(8192, 500, 0, 0, 0)))

    assert [(one.page_size, one.memory_pages) for one in scan.by_page_size] == [(4096, 1000), (8192, 500)]


def test_departed_domain_is_not_skipped() -> None:
    scan = host_scan("a", skipped=tuple(SkippedGuest(name, Reason.IN_JOB, "busy", guest_id(name)) for name in "bc"))
    left = scan.without(guest_id("b"))

    assert [one.name for one in left.skipped] == ["c"]
    assert left.departed == ()


def test_removing_unknown_domain_changes_nothing() -> None:
    whole = snapshot(host_scan("a"), domains=("a",))

    assert whole.without(guest_id("z")) == whole
    assert snapshot().without(guest_id("z")) == snapshot()


def test_without_returns_a_copy() -> None:
    whole = snapshot(host_scan("a", "b"), domains=("a", "b"))
    whole.without(guest_id("a"))

    assert whole == snapshot(host_scan("a", "b"), domains=("a", "b"))


def test_histogram_bounds_are_inclusive() -> None:
    histogram = Histogram((1.0, 2.0)).add(1.0).add(1.5).add(9.0)

    assert histogram.counts == (1, 1, 1)
    assert histogram.total == 11.5


def test_unbacked_zero_pages_are_excluded() -> None:
    scan = host_scan("a", "b")
    a, b = scan.scans
    fewer = dataclasses.replace(scan, scans=(dataclasses.replace(a, unbacked_zero_pages=150), b))
    assert scan.potential_pages - fewer.potential_pages == 150
    assert fewer.backed_zero_pages == scan.zero_pages - 150
    assert fewer.mergeable_pages == {"a": 250 + 200 - 150, "b": 250 + 200}
