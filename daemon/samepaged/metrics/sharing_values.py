"""What one scan found, as metrics: the guests' memory and their sharing."""

from __future__ import annotations

import heapq
from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING

from samepaged.metrics.sharing import (
    DOMAIN_MEMORY,
    DOMAIN_SELF_SHARING,
    DOMAIN_SHARED_WITH_OTHERS,
    DOMAIN_STABLE_SELF_SHARING,
    GROUP_INTER_SHARING,
    GROUP_SELF_SHARING,
    HOST_INTER_SHARING,
    HOST_MEMORY,
    HOST_SELF_SHARING,
    HOST_SHARING_RATIO,
    HOST_STABLE_INTER_SHARING,
    HOST_STABLE_SELF_SHARING,
    PAGE_SIZE_INTER_SHARING,
    PAGE_SIZE_SELF_SHARING,
    PAIR_INTER_SHARING,
)
from samepaged.scan.label_values import STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import Metric as Family

    from samepaged.scan.results import HostScan
    from samepaged.sharing import GuestSharing, SharingReport

__all__ = ["sharing_metrics"]


def sharing_metrics(scan: HostScan, pairs: int) -> Iterator[Family]:
    """Memory and sharing by domain, group, host, page size, and of the largest `pairs` pairs, in bytes."""
    yield from _domains(scan.report)
    yield from _groups(scan.report)
    yield from _host(scan)
    if scan.stable is not None:
        yield from _stable(scan.stable)
    yield from _page_sizes(scan)
    yield _largest_pairs(scan.report, pairs)


def _domains(report: SharingReport) -> Iterator[Family]:
    size, guests = report.page_size, report.guests
    yield DOMAIN_MEMORY.family(
        {(guest.name, state): pages * size for guest in guests for state, pages in _by_state((guest,)).items()}
    )
    yield DOMAIN_SELF_SHARING.family({(guest.name,): guest.duplicate_pages * size for guest in guests})
    yield DOMAIN_SHARED_WITH_OTHERS.family({(guest.name,): guest.shared_with_others_pages * size for guest in guests})


def _groups(report: SharingReport) -> Iterator[Family]:
    size, groups = report.page_size, report.groups
    yield GROUP_SELF_SHARING.family({(group.name,): group.self_sharing_pages * size for group in groups})
    yield GROUP_INTER_SHARING.family({(group.name,): group.inter_sharing_pages * size for group in groups})


def _host(scan: HostScan) -> Iterator[Family]:
    report, size = scan.report, scan.report.page_size
    states = _by_state((*report.guests, *scan.departed))
    yield HOST_MEMORY.family({(state,): pages * size for state, pages in states.items()})
    yield HOST_SELF_SHARING.family({(): report.self_sharing_pages * size})
    yield HOST_INTER_SHARING.family({(): report.inter_sharing_pages * size})
    if total := sum(states.values()):
        yield HOST_SHARING_RATIO.family({(): report.total_sharing_pages / total})


def _stable(stable: SharingReport) -> Iterator[Family]:
    size = stable.page_size
    yield HOST_STABLE_SELF_SHARING.family({(): stable.self_sharing_pages * size})
    yield HOST_STABLE_INTER_SHARING.family({(): stable.inter_sharing_pages * size})
    yield DOMAIN_STABLE_SELF_SHARING.family({(guest.name,): guest.duplicate_pages * size for guest in stable.guests})


def _page_sizes(scan: HostScan) -> Iterator[Family]:
    sizes = scan.by_page_size
    yield PAGE_SIZE_SELF_SHARING.family(
        {(str(one.page_size),): one.self_sharing_pages * one.page_size for one in sizes}
    )
    yield PAGE_SIZE_INTER_SHARING.family(
        {(str(one.page_size),): one.inter_sharing_pages * one.page_size for one in sizes}
    )


def _largest_pairs(report: SharingReport, most: int) -> Family:
    largest = heapq.nlargest(most, report.pairs, key=attrgetter("inter_sharing_pages"))
    return PAIR_INTER_SHARING.family({pair.domains: pair.inter_sharing_pages * report.page_size for pair in largest})


def _by_state(guests: Iterable[GuestSharing]) -> Counter[str]:
    pages = Counter(dict.fromkeys(STATES, 0))
    for guest in guests:
        for state in STATES:
            pages[state] += getattr(guest, f"{state}_pages")
    return pages
