"""Sharing: gauges in bytes, the number of pages times the page size of the scan or of the label `page_size`."""

from __future__ import annotations

import heapq
from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeVar

from samepaged.metrics.metric import GAUGE, Metric, Unit, of_scan
from samepaged.scan.label_values import STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import Snapshot
    from samepaged.sharing import GroupSharing, GuestSharing, PageSizeSharing, SharingReport

Labels = TypeVar("Labels", bound=tuple[str, ...])
Member = TypeVar("Member", "GuestSharing", "GroupSharing")


def _pages_by_state(guests: Iterable[GuestSharing]) -> Counter[str]:
    pages = Counter(dict.fromkeys(STATES, 0))
    for guest in guests:
        for state in STATES:
            pages[state] += getattr(guest, f"{state}_pages")
    return pages


def _domain_memory(scan: HostScan) -> dict[tuple[str, str], int]:
    size = scan.report.page_size
    return {
        (guest.name, state): pages * size
        for guest in scan.report.guests
        for state, pages in _pages_by_state((guest,)).items()
    }


def _bytes_of(
    members: Callable[[SharingReport], Iterable[Member]], pages: Callable[[Member], int]
) -> Callable[[Snapshot], Mapping[tuple[str], int]]:
    """Bytes by the name of each guest or group of the latest scan."""
    return of_scan(lambda scan: {(one.name,): pages(one) * scan.report.page_size for one in members(scan.report)})


def _by_page_size(pages: Callable[[PageSizeSharing], int]) -> Callable[[Snapshot], Mapping[tuple[str], int]]:
    """Bytes of the host by the page size in the latest scan."""
    return of_scan(lambda scan: {(str(one.page_size),): pages(one) * one.page_size for one in scan.by_page_size})


DOMAIN_MEMORY: Final = Metric(
    GAUGE,
    "samepage_domain_memory_bytes",
    ("domain", "state"),
    Unit.BYTES,
    "Memory of the guest in bytes, by page state. The five states add up to the size of the guest's memory.",
    symbol="distinct: |U(V)|; duplicate: S_self(V)",
    example='sum by (instance, domain) (samepage_domain_memory_bytes{state=~"zero|absent"})',
    words={"state": STATES},
    values=of_scan(_domain_memory),
)
DOMAIN_SELF_SHARING: Final = Metric(
    GAUGE,
    "samepage_domain_self_sharing_bytes",
    ("domain",),
    Unit.BYTES,
    "Bytes that the guest could share within itself: the size of its duplicate pages, without zero pages.",
    symbol="S_self(V)",
    example="topk(5, samepage_domain_self_sharing_bytes)",
    values=_bytes_of(lambda report: report.guests, lambda one: one.duplicate_pages),
)
DOMAIN_SHARED_WITH_OTHERS: Final = Metric(
    GAUGE,
    "samepage_domain_shared_with_others_bytes",
    ("domain",),
    Unit.BYTES,
    "Bytes of the guest's distinct contents that other guests of its group also have: an estimate of the sharing lost "
    "if the guest leaves the host. Do not sum it over guests.",
    symbol="|U(V) ∩ ∪ U(W)|, W the others of V's group",  # noqa: RUF001 - the union of sets is meant
    example="samepage_domain_shared_with_others_bytes / on (instance, domain) "
    "sum by (instance, domain) (samepage_domain_memory_bytes)",
    values=_bytes_of(lambda report: report.guests, lambda one: one.shared_with_others_pages),
)
GROUP_SELF_SHARING: Final = Metric(
    GAUGE,
    "samepage_group_self_sharing_bytes",
    ("group",),
    Unit.BYTES,
    "Sum of the self-sharing of the guests of the group in bytes.",
    symbol="Σ S_self(V), V in G",
    example="sum(samepage_group_self_sharing_bytes)",
    values=_bytes_of(lambda report: report.groups, lambda one: one.self_sharing_pages),
)
GROUP_INTER_SHARING: Final = Metric(
    GAUGE,
    "samepage_group_inter_sharing_bytes",
    ("group",),
    Unit.BYTES,
    "Bytes that the guests of the group could share only because they run on the same host.",
    symbol="S_inter(G)",
    example="samepage_group_inter_sharing_bytes + samepage_group_self_sharing_bytes",
    values=_bytes_of(lambda report: report.groups, lambda one: one.inter_sharing_pages),
)


def _largest_pairs(snapshot: Snapshot) -> dict[tuple[str, str], int]:
    if snapshot.latest is None:
        return {}
    report = snapshot.latest.report
    largest = heapq.nlargest(snapshot.export_config.pairs, report.pairs, key=attrgetter("inter_sharing_pages"))
    return {pair.domains: pair.inter_sharing_pages * report.page_size for pair in largest}


PAIR_INTER_SHARING: Final = Metric(
    GAUGE,
    "samepage_pair_inter_sharing_bytes",
    ("domain_a", "domain_b"),
    Unit.BYTES,
    "Bytes of distinct contents that both guests have, regardless of their groups. Only the largest pairs have series.",
    symbol="S_inter({A, B}) = |U(A) ∩ U(B)|",
    example="topk(10, samepage_pair_inter_sharing_bytes)",
    values=_largest_pairs,
)


def _host_memory(scan: HostScan) -> dict[tuple[str], int]:
    pages_by_state = _pages_by_state((*scan.report.guests, *scan.departed))
    return {(state,): pages * scan.report.page_size for state, pages in pages_by_state.items()}


HOST_MEMORY: Final = Metric(
    GAUGE,
    "samepage_host_memory_bytes",
    ("state",),
    Unit.BYTES,
    "Memory of all scanned guests in bytes, by page state as in `samepage_domain_memory_bytes`.",
    symbol="Σ over V",
    example="sum by (instance) (samepage_host_memory_bytes)",
    words={"state": STATES},
    values=of_scan(_host_memory),
)
HOST_SELF_SHARING: Final = Metric(
    GAUGE,
    "samepage_host_self_sharing_bytes",
    (),
    Unit.BYTES,
    "Sum of the self-sharing of all scanned guests in bytes.",
    symbol="Σ S_self(V)",
    example="samepage_host_self_sharing_bytes / (samepage_host_self_sharing_bytes + samepage_host_inter_sharing_bytes)",
    values=of_scan(lambda scan: {(): scan.report.self_sharing_pages * scan.report.page_size}),
)
HOST_INTER_SHARING: Final = Metric(
    GAUGE,
    "samepage_host_inter_sharing_bytes",
    (),
    Unit.BYTES,
    "Bytes that all scanned guests could share only because they run on the same host, including across groups.",
    symbol="S_inter(G), G all guests",
    example="samepage_host_inter_sharing_bytes - on (instance) sum by (instance) (samepage_group_inter_sharing_bytes)",
    values=of_scan(lambda scan: {(): scan.report.inter_sharing_pages * scan.report.page_size}),
)


def _sharing_ratio(scan: HostScan) -> dict[tuple[()], float]:
    memory = sum(guest.memory_pages for guest in (*scan.report.guests, *scan.departed))
    return {(): scan.report.total_sharing_pages / memory} if memory else {}


HOST_SHARING_RATIO: Final = Metric(
    GAUGE,
    "samepage_host_sharing_ratio",
    (),
    Unit.RATIO,
    "Ratio of total sharing (self-sharing and inter-VM sharing of the host) to the memory of the guests, 0 to 1.",
    symbol="(Σ S_self(V) + S_inter(G)) ÷ memory",
    example="samepage_host_sharing_ratio < 0.05",
    values=of_scan(_sharing_ratio),
)


def _of_stable(values: Callable[[SharingReport], Mapping[Labels, int]]) -> Callable[[Snapshot], Mapping[Labels, int]]:
    """Values of the stable sharing; none until two consecutive scans of a guest succeed."""
    return of_scan(lambda scan: {} if scan.stable is None else values(scan.stable))


HOST_STABLE_SELF_SHARING: Final = Metric(
    GAUGE,
    "samepage_host_stable_self_sharing_bytes",
    (),
    Unit.BYTES,
    "Sum of the self-sharing of the guests in bytes, counting only pages with unchanged content since the previous "
    "scan. Guests without page hashes from the previous scan are not included.",
    symbol="Σ S_self(V), V as its stable pages",
    example="samepage_host_stable_self_sharing_bytes / samepage_host_self_sharing_bytes",
    values=_of_stable(lambda stable: {(): stable.self_sharing_pages * stable.page_size}),
)
HOST_STABLE_INTER_SHARING: Final = Metric(
    GAUGE,
    "samepage_host_stable_inter_sharing_bytes",
    (),
    Unit.BYTES,
    "Bytes that the guests could share only because they run on the same host, including across groups, counting only "
    "pages with unchanged content since the previous scan. Guests without page hashes from the previous scan are not "
    "included.",
    symbol="S_inter(G), G all guests as their stable pages",
    example="samepage_host_stable_inter_sharing_bytes / samepage_host_inter_sharing_bytes",
    values=_of_stable(lambda stable: {(): stable.inter_sharing_pages * stable.page_size}),
)
DOMAIN_STABLE_SELF_SHARING: Final = Metric(
    GAUGE,
    "samepage_domain_stable_self_sharing_bytes",
    ("domain",),
    Unit.BYTES,
    "Bytes that the guest could share within itself, counting only pages with unchanged content since the previous "
    "scan. Guests without page hashes from the previous scan do not have a series.",
    symbol="S_self(V), V as its stable pages",
    example="samepage_domain_self_sharing_bytes - samepage_domain_stable_self_sharing_bytes",
    values=_of_stable(lambda stable: {(one.name,): one.duplicate_pages * stable.page_size for one in stable.guests}),
)
PAGE_SIZE_SELF_SHARING: Final = Metric(
    GAUGE,
    "samepage_page_size_self_sharing_bytes",
    ("page_size",),
    Unit.BYTES,
    "Sum of the self-sharing of all scanned guests in bytes, if the host had pages of `page_size` bytes and shared "
    "only identical pages.",
    symbol="Σ S_self(V), section 4.4",
    example='samepage_page_size_self_sharing_bytes{page_size="2097152"}',
    values=_by_page_size(lambda one: one.self_sharing_pages),
)
PAGE_SIZE_INTER_SHARING: Final = Metric(
    GAUGE,
    "samepage_page_size_inter_sharing_bytes",
    ("page_size",),
    Unit.BYTES,
    "Inter-VM sharing of the host in bytes, including across groups, if the host had pages of `page_size` bytes and "
    "shared only identical pages.",
    symbol="S_inter(G), G all guests, section 4.4",
    example="samepage_page_size_inter_sharing_bytes / ignoring (page_size) group_left "
    "samepage_host_inter_sharing_bytes",
    values=_by_page_size(lambda one: one.inter_sharing_pages),
)
