"""KSM counters: of the host in /sys/kernel/mm/ksm, of a process in /proc/PID/ksm_stat."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError
from samepaged.log_line import details
from samepaged.os_errors import exhausted, no_resources
from samepaged.procfs import start_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.guest_id import GuestId

__all__ = [
    "HostMerging",
    "Merging",
    "ProcessMerging",
    "expected_profit",
    "has_merged",
    "host_merging",
    "process_merging",
    "read_merging",
]

log = logging.getLogger(__name__)

KSM: Final = Path("/sys/kernel/mm/ksm")
PROC: Final = Path("/proc")
# sizeof(struct ksm_rmap_item) of mm/ksm.c on 64 bits: KSM's memory for each page that it tracks.
RMAP_ITEM_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class HostMerging:
    """KSM on this host. Counts are in kernel pages (4 KiB on x86-64). Saved pages are `sharing`, and `zero` (mapped to
    the kernel's zero page if `use_zero_pages` is set). `shared` pages remain, mapped by all users of their contents.
    `unshared` and `volatile` pages are tracked without a saving. Values that a kernel does not report are 0.
    """

    run: int
    shared: int
    sharing: int
    unshared: int
    volatile: int
    zero: int
    full_scans: int
    pages_to_scan: int
    sleep_milliseconds: int

    @property
    def running(self) -> bool:
        """Whether KSM merges pages now (`run` is 1; 2 unmerges all pages)."""
        return self.run == 1

    @property
    def merged_pages(self) -> int:
        """Pages saved by merging now."""
        return self.sharing + self.zero

    @property
    def merged_bytes(self) -> int:
        """Bytes saved by merging now."""
        return self.merged_pages * PAGE_SIZE

    @property
    def profit_bytes(self) -> int:
        """Bytes saved by merging minus the memory for it, by the kernel's formula (general_profit)."""
        items = self.shared + self.sharing + self.unshared + self.volatile
        return expected_profit(self.merged_pages, items)


@dataclass(frozen=True, slots=True)
class ProcessMerging:
    """Pages of one process merged by KSM: `merging` are mapped to KSM pages, including the first page of each content;
    `zero` are mapped to the kernel's zero page. `rmap_items` is the number of tracked pages.
    """

    merging: int
    zero: int
    rmap_items: int

    @property
    def merged_pages(self) -> int:
        """The merged pages of the process."""
        return self.merging + self.zero

    @property
    def merged_bytes(self) -> int:
        """The merged pages of the process in bytes."""
        return self.merged_pages * PAGE_SIZE

    @property
    def profit_bytes(self) -> int:
        """The kernel's ksm_process_profit. It does not subtract the pages that remain for all users, so its sum over
        processes exceeds the profit of the host.
        """
        return expected_profit(self.merged_pages, self.rmap_items)


@dataclass(frozen=True, slots=True)
class Merging:
    """KSM counters of the host, and of each guest process with readable counters."""

    host: HostMerging
    guests: Mapping[GuestId, ProcessMerging] = field(default_factory=dict)

    def without(self, guest_id: GuestId) -> Merging:
        """A copy without one guest."""
        return replace(self, guests={key: one for key, one in self.guests.items() if key != guest_id})


class Process(Protocol):
    """A process of a guest."""

    @property
    def pid(self) -> int:
        """Process ID."""

    @property
    def start_time(self) -> int:
        """Start time of proc(5), in clock ticks since boot."""


def expected_profit(saved_pages: int, tracked_pages: int, page_size: int = PAGE_SIZE) -> int:
    """Bytes saved minus bytes for tracking, by the kernel's formula (Documentation/admin-guide/mm/ksm.rst, 'Monitoring
    KSM profit').
    """
    return saved_pages * page_size - tracked_pages * RMAP_ITEM_BYTES


def host_merging(directory: Path = KSM) -> HostMerging | None:
    """KSM counters of the host; None if the kernel lacks KSM. Raises GuestError if a resource is exhausted."""
    if _number(directory / "run") is None:
        return None

    def counter(name: str) -> int:
        return _number(directory / name) or 0

    return HostMerging(
        run=counter("run"),
        shared=counter("pages_shared"),
        sharing=counter("pages_sharing"),
        unshared=counter("pages_unshared"),
        volatile=counter("pages_volatile"),
        zero=counter("ksm_zero_pages"),
        full_scans=counter("full_scans"),
        pages_to_scan=counter("pages_to_scan"),
        sleep_milliseconds=counter("sleep_millisecs"),
    )


def has_merged(directory: Path = KSM) -> bool:
    """Whether KSM merges pages now, or has merged some. Raises GuestError as `host_merging` does."""
    host = host_merging(directory)
    return host is not None and (host.running or host.shared > 0 or host.zero > 0)


def process_merging(pid: int, proc: Path = PROC) -> ProcessMerging | None:
    """KSM counters of a process; None if it has ended, its counters may not be read (CAP_DAC_READ_SEARCH), or the
    kernel does not report them.

    The fields of ksm_stat were added over several versions, the last in Linux 6.8; ksm_merging_pages of 5.19 is older.
    Raises GuestError if a resource is exhausted.
    """
    fields: dict[str, int] = {}
    for line in (_text(proc / str(pid) / "ksm_stat") or "").splitlines():
        name, _, value = line.partition(" ")
        number = _natural(value)
        if number is not None:
            fields[name.rstrip(":")] = number
    merging = fields.get("ksm_merging_pages", _number(proc / str(pid) / "ksm_merging_pages"))
    if merging is None:
        return None
    return ProcessMerging(merging, fields.get("ksm_zero_pages", 0), fields.get("ksm_rmap_items", 0))


def read_merging(processes: Mapping[GuestId, Process], before: Merging | None = None) -> Merging | None:
    """KSM counters of the host and of the guests' `processes`, except those that have ended. None if the kernel does
    not support KSM; `before` if a resource is exhausted.
    """
    try:
        host = host_merging()
        if host is None:
            return None
        guests = {}
        for guest_id, process in processes.items():
            merged = process_merging(process.pid)
            if merged is not None and start_time(process.pid) == process.start_time:
                guests[guest_id] = merged
    except (GuestError, OSError) as error:
        log.warning("cannot read KSM counters, keeping the previous values%s", details(error=error))
        return before
    return Merging(host, guests)


def _number(path: Path) -> int | None:
    text = _text(path)
    return None if text is None else _natural(text)


def _text(path: Path) -> str | None:
    try:
        return path.read_text("ascii", "replace")
    except OSError as error:
        if exhausted(error):
            raise no_resources(str(path), error) from error
        return None


def _natural(text: str) -> int | None:
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None  # noqa: PLR2004 - 64 bits
