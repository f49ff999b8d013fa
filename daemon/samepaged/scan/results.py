"""Results of one scan of one guest and of the host. Immutable."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING

from samepaged.escape import valid
from samepaged.ksm import expected_profit
from samepaged.sharing import PageSizeSharing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.attribution.page_owners import PageOwners
    from samepaged.errors import Reason
    from samepaged.guest_id import GuestId
    from samepaged.hypervisor.qemu_process import QemuProcess
    from samepaged.sharing import Contents, GuestSharing, PageDigest, SharingReport

__all__ = ["GuestScan", "HostScan", "ScannedGuest", "SkippedGuest", "mergeable_pages"]


@dataclass(frozen=True, slots=True)
class GuestScan:
    """Metadata of one guest's scan: times in seconds, `started` in seconds of the Unix epoch. If a fallback was used,
    `fallback_code` is the reason as a code, and `fallback_reason` as a line of text. `merge_obstacle` is the reason
    that KSM cannot merge the guest's memory, also as a code. `unbacked_zero_pages` is the number of its zero pages that
    map the kernel's zero page, and take no memory. `device_writes`: a passed-through device may have written to the
    guest's memory during the scan, also while the guest was suspended.
    """

    name: str
    guest_id: GuestId
    group: str
    mode: str
    reader: str
    started: float
    duration_seconds: float
    pauses: int
    pause_seconds: float
    longest_pause_seconds: float
    bytes_read: int
    fallback_reason: str | None = None
    fallback_code: str | None = None
    merge_obstacle: str | None = None
    unbacked_zero_pages: int = 0
    device_writes: bool = False

    @property
    def uuid(self) -> str:
        """The domain's UUID."""
        return self.guest_id.uuid


@dataclass(frozen=True, slots=True)
class ScannedGuest:
    """One guest's scan, the guest's process, and the contents of its memory. `lasting` has the contents of the pages
    that are unchanged since the scan before, if there was one; `by_page_size` the contents in other page sizes. If page
    attribution was due, `ownership` has the owners of the pages of `digest`, both of one instant.
    """

    scan: GuestScan
    process: QemuProcess
    contents: Contents
    lasting: Contents | None
    by_page_size: Mapping[int, Contents]
    ownership: PageOwners | None = None
    digest: PageDigest | None = None

    def renamed(self, name: str) -> ScannedGuest:
        """Return the same scan under the domain's current name."""
        return self if name == self.scan.name else replace(self, scan=replace(self.scan, name=name))

    def lean(self) -> ScannedGuest:
        """Return the scan without the parts that only this round's analysis needs; they double its memory."""
        return replace(self, lasting=None, by_page_size={}, ownership=None, digest=None)


@dataclass(frozen=True, slots=True)
class SkippedGuest:
    """A guest that was not scanned. `message` is a line with the problem and the remedy; `guest_id` is None without
    such a domain, `remedy` if the problem needs no action.
    """

    name: str
    reason: Reason
    message: str
    guest_id: GuestId | None = None
    remedy: str | None = None

    def journal_fields(self) -> dict[str, dict[str, str]]:
        """The `extra` of a log call about the guest, as in `journald.about`."""
        fields = {"SAMEPAGED_DOMAIN": self.name, "SAMEPAGED_REASON": self.reason.value}
        return {"journal_fields": fields if self.remedy is None else fields | {"SAMEPAGED_REMEDY": self.remedy}}

    def document(self) -> dict[str, str | None]:
        """The guest as an object of JSON; each string is valid Unicode."""
        return {
            "name": valid(self.name),
            "reason": valid(self.message),
            "reason_code": self.reason.value,
            "remedy": None if self.remedy is None else valid(self.remedy),
        }


@dataclass(frozen=True, slots=True)
class HostScan:
    """One scan of all guests, with unique names. `report` covers `scans` and excludes `skipped`. `stable` covers only
    pages that kept their content since the scan before, of guests that can be compared with it. `page_sizes` has the
    sharing in other page sizes.

    `departed` are the rows of guests that left after the scan: no longer shown, yet part of the host's totals until the
    next scan computes new ones. `attainable_pages` is the number of pages, including zero pages, that KSM could save in
    guests with mergeable memory, and `attended_pages` the number of pages that it would scan for that.
    """

    started: float
    duration_seconds: float
    scans: tuple[GuestScan, ...]
    skipped: tuple[SkippedGuest, ...]
    report: SharingReport
    stable: SharingReport | None = None
    page_sizes: tuple[PageSizeSharing, ...] = ()
    departed: tuple[GuestSharing, ...] = ()
    attainable_pages: int = 0
    attended_pages: int = 0

    def without(self, guest_id: GuestId) -> HostScan:
        """This scan after the guest's departure: its row and pairs are gone, the totals of host and groups stay."""
        skipped = tuple(one for one in self.skipped if one.guest_id != guest_id)
        name = next((scan.name for scan in self.scans if scan.guest_id == guest_id), None)
        if name is None:
            return replace(self, skipped=skipped)
        return replace(
            self,
            scans=tuple(scan for scan in self.scans if scan.guest_id != guest_id),
            skipped=skipped,
            report=_without(self.report, name),
            stable=self.stable and _without(self.stable, name),
            departed=(*self.departed, *(guest for guest in self.report.guests if guest.name == name)),
        )

    @property
    def zero_pages(self) -> int:
        """Zero pages of all scanned guests."""
        return sum(guest.zero_pages for guest in (*self.report.guests, *self.departed))

    @property
    def backed_zero_pages(self) -> int:
        """Zero pages of the guests that take memory."""
        return sum(guest.zero_pages for guest in self.report.guests) - sum(
            one.unbacked_zero_pages for one in self.scans
        )

    @property
    def potential_pages(self) -> int:
        """Pages that complete merging would save: total sharing, and the zero pages that take memory, because KSM
        merges them like other pages.
        """
        return self.report.total_sharing_pages + self.backed_zero_pages

    @property
    def mergeable_pages(self) -> dict[str, int]:
        """`mergeable_pages` of each guest, by name."""
        how = {one.name: one for one in self.scans}
        return {guest.name: mergeable_pages(guest, how[guest.name]) for guest in self.report.guests}

    @property
    def expected_profit_bytes(self) -> int:
        """Bytes that KSM would save by merging all attainable pages, minus its own metadata."""
        return expected_profit(self.attainable_pages, self.attended_pages, self.report.page_size)

    @property
    def by_page_size(self) -> tuple[PageSizeSharing, ...]:
        """Sharing of the host in pages of the report's own size, then in each of `page_sizes`, ascending."""
        whole = replace(self.report, guests=(*self.report.guests, *self.departed))
        others = (one for one in self.page_sizes if one.page_size != whole.page_size)
        return (PageSizeSharing.of(whole), *sorted(others, key=attrgetter("page_size")))


def mergeable_pages(guest: GuestSharing, how: GuestScan) -> int:
    """Return the number of the guest's pages that merging would map to a merged page: pages with content that recurs on
    the host, and zero pages that take memory.
    """
    return guest.recurring_pages + guest.zero_pages - how.unbacked_zero_pages


def _without(report: SharingReport, name: str) -> SharingReport:
    return replace(
        report,
        guests=tuple(guest for guest in report.guests if guest.name != name),
        pairs=tuple(pair for pair in report.pairs if name not in pair.domains),
    )
