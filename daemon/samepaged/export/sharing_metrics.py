"""What one scan found, as metrics: the guests' memory and their sharing."""

from __future__ import annotations

import heapq
from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from samepaged.export.families import gauge
from samepaged.export.names import valid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric

    from samepaged.export.snapshot import HostScan
    from samepaged.sharing import GuestSharing, SharingReport

__all__ = ["sharing_metrics"]

_STATES: Final = ("absent", "swapped", "zero", "distinct", "duplicate")
_STATES_HELP: Final = (
    "absent (never backed by the host: reads as zeros, was not read), swapped (out on the host, not read), zero, "
    "distinct (the first copy of a non-zero content in the guest, |U(V)|; the paper's UNIQUE(P_V)), "
    "duplicate (a further copy, S_self(V))"
)
_STABLE_HELP: Final = (
    "counting only pages that kept their content since the scan before (the kernel's samepage merging, KSM, waits for "
    "such). Guests of whose scan before nothing is kept are not in it."
)
_PAGE_SIZES_HELP: Final = (
    "if the host's pages had page_size bytes and were shared where they are the same throughout, zero pages left out."
)


def sharing_metrics(scan: HostScan, pairs: int) -> Iterator[Metric]:
    """Memory and sharing by domain, group, host, page size, and of the largest `pairs` pairs, in bytes."""
    yield from _domains(scan)
    yield from _groups(scan)
    yield from _host(scan)
    if scan.stable is not None:
        yield from _stable(scan.stable)
    yield from _page_sizes(scan)
    yield _largest_pairs(scan, pairs)


def _domains(scan: HostScan) -> Iterator[Metric]:
    size = scan.report.page_size
    memory = gauge(
        "samepage_domain_memory_bytes",
        f"Bytes of the guest's memory by state: {_STATES_HELP}. The five add up to the guest's memory.",
        labels=("domain", "state"),
    )
    sharing = gauge(
        "samepage_domain_self_sharing_bytes",
        "Bytes that duplicate pages take within the guest, zero pages left out: S_self(V).",
        labels=("domain",),
    )
    shared = gauge(
        "samepage_domain_shared_with_others_bytes",
        "Bytes of the guest's distinct contents U(V) that some other guest of its group has too. Does not add up over "
        "guests.",
        labels=("domain",),
    )
    for guest in scan.report.guests:
        domain = valid(guest.name)
        for state, pages in _by_state((guest,)).items():
            memory.add_metric((domain, state), pages * size)
        sharing.add_metric((domain,), guest.duplicate_pages * size)
        shared.add_metric((domain,), guest.shared_with_others_pages * size)
    yield from (memory, sharing, shared)


def _groups(scan: HostScan) -> Iterator[Metric]:
    size = scan.report.page_size
    own = gauge(
        "samepage_group_self_sharing_bytes",
        "Bytes of self-sharing in the guests of the group: the sum of S_self(V) over V in G.",
        labels=("group",),
    )
    inter = gauge(
        "samepage_group_inter_sharing_bytes",
        "Bytes that the guests of the group share only by being on the same host: S_inter(G).",
        labels=("group",),
    )
    for group in scan.report.groups:
        own.add_metric((valid(group.name),), group.self_sharing_pages * size)
        inter.add_metric((valid(group.name),), group.inter_sharing_pages * size)
    yield from (own, inter)


def _host(scan: HostScan) -> Iterator[Metric]:
    report, size = scan.report, scan.report.page_size
    states = _by_state((*report.guests, *scan.departed))
    memory = gauge(
        "samepage_host_memory_bytes",
        f"Bytes of the memory of all scanned guests by state: {_STATES_HELP}.",
        labels=("state",),
    )
    for state, pages in states.items():
        memory.add_metric((state,), pages * size)
    yield memory
    yield gauge(
        "samepage_host_self_sharing_bytes",
        "Bytes of self-sharing in all scanned guests: the sum of S_self(V) over all V.",
        report.self_sharing_pages * size,
    )
    yield gauge(
        "samepage_host_inter_sharing_bytes",
        "Bytes that all scanned guests share only by being on the same host, across groups too: S_inter of the host.",
        report.inter_sharing_pages * size,
    )
    if total := sum(states.values()):
        yield gauge(
            "samepage_host_sharing_ratio",
            "Total sharing (self-sharing and inter-VM sharing of the host) as a part of the guests' memory, 0 to 1.",
            report.total_sharing_pages / total,
        )


def _stable(stable: SharingReport) -> Iterator[Metric]:
    size = stable.page_size
    yield gauge(
        "samepage_host_stable_self_sharing_bytes",
        f"Bytes of self-sharing in all scanned guests, {_STABLE_HELP}",
        stable.self_sharing_pages * size,
    )
    yield gauge(
        "samepage_host_stable_inter_sharing_bytes",
        f"Bytes that all scanned guests share only by being on the same host, across groups too, {_STABLE_HELP}",
        stable.inter_sharing_pages * size,
    )
    own = gauge(
        "samepage_domain_stable_self_sharing_bytes",
        f"Bytes that duplicate pages take within the guest, {_STABLE_HELP}",
        labels=("domain",),
    )
    for guest in stable.guests:
        own.add_metric((valid(guest.name),), guest.duplicate_pages * size)
    yield own


def _page_sizes(scan: HostScan) -> Iterator[Metric]:
    own = gauge(
        "samepage_page_size_self_sharing_bytes",
        f"Bytes of self-sharing in all scanned guests {_PAGE_SIZES_HELP}",
        labels=("page_size",),
    )
    inter = gauge(
        "samepage_page_size_inter_sharing_bytes",
        "Bytes that all scanned guests share only by being on the same host, across groups too, " + _PAGE_SIZES_HELP,
        labels=("page_size",),
    )
    for one in scan.by_page_size:
        own.add_metric((str(one.page_size),), one.self_sharing_pages * one.page_size)
        inter.add_metric((str(one.page_size),), one.inter_sharing_pages * one.page_size)
    yield from (own, inter)


def _largest_pairs(scan: HostScan, most: int) -> Metric:
    family = gauge(
        "samepage_pair_inter_sharing_bytes",
        "Bytes of contents that both guests have, |U(A) ∩ U(B)|, whatever their groups: S_inter of the two. Only the "
        "largest pairs.",
        labels=("domain_a", "domain_b"),
    )
    for pair in heapq.nlargest(most, scan.report.pairs, key=attrgetter("inter_sharing_pages")):
        a, b = pair.domains
        family.add_metric((valid(a), valid(b)), pair.inter_sharing_pages * scan.report.page_size)
    return family


def _by_state(guests: Iterable[GuestSharing]) -> Counter[str]:
    pages = Counter(dict.fromkeys(_STATES, 0))
    for guest in guests:
        for state in _STATES:
            pages[state] += getattr(guest, f"{state}_pages")
    return pages
