"""KSM's counters: of the host in /sys/kernel/mm/ksm, of a process in /proc/PID/ksm_stat."""

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
# sizeof(struct ksm_rmap_item) of mm/ksm.c on 64 bits: what KSM itself takes for each page that it looks after.
RMAP_ITEM_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class HostMerging:
    """KSM on this host. Counts are in pages of the kernel's (4 KiB on x86-64). `sharing` are the pages saved, besides
    `zero` (mapped to the kernel's page of zeros, where `use_zero_pages` is set); `shared` are kept for all who have
    their contents. `unshared` and `volatile` pages are looked after in vain. What a kernel does not tell is 0.
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
        """Whether it merges now (`run` is 1; 2 has undone all merging)."""
        return self.run == 1

    @property
    def merged_pages(self) -> int:
        """Pages that merging saves now."""
        return self.sharing + self.zero

    @property
    def merged_bytes(self) -> int:
        """The same in bytes."""
        return self.merged_pages * PAGE_SIZE

    @property
    def profit_bytes(self) -> int:
        """What merging saves less what it takes, by the kernel's formula (general_profit)."""
        items = self.shared + self.sharing + self.unshared + self.volatile
        return expected_profit(self.merged_pages, items)


@dataclass(frozen=True, slots=True)
class ProcessMerging:
    """What KSM has merged of one process, in pages: `merging` are mapped to a page of KSM's, the first of each content
    among them; `zero` to the kernel's page of zeros. `rmap_items` are looked after.
    """

    merging: int
    zero: int
    rmap_items: int

    @property
    def merged_pages(self) -> int:
        """Its pages that are merged."""
        return self.merging + self.zero

    @property
    def merged_bytes(self) -> int:
        """The same in bytes."""
        return self.merged_pages * PAGE_SIZE

    @property
    def profit_bytes(self) -> int:
        """The kernel's ksm_process_profit. It counts no page as kept for others: over processes, it adds up to more
        than the host's.
        """
        return expected_profit(self.merged_pages, self.rmap_items)


@dataclass(frozen=True, slots=True)
class Merging:
    """KSM's counters of the host, and of each guest's process with readable counters."""

    host: HostMerging
    guests: Mapping[GuestId, ProcessMerging] = field(default_factory=dict)

    def without(self, guest_id: GuestId) -> Merging:
        """The same without one guest."""
        return replace(self, guests={key: one for key, one in self.guests.items() if key != guest_id})


class Process(Protocol):
    """A process of a guest; `start_time` is that of proc(5), in clock ticks since boot."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def start_time(self) -> int:
        """Its start time."""


def expected_profit(saved_pages: int, tracked_pages: int, page_size: int = PAGE_SIZE) -> int:
    """Bytes saved less bytes taken, by the kernel's own formula (Documentation/admin-guide/mm/ksm.rst, 'Monitoring KSM
    profit').
    """
    return saved_pages * page_size - tracked_pages * RMAP_ITEM_BYTES


def host_merging(directory: Path = KSM) -> HostMerging | None:
    """KSM's counters; None where the kernel has no KSM. Raises GuestError if a resource is exhausted."""
    if _number(directory / "run") is None:
        return None

    def told(name: str) -> int:
        return _number(directory / name) or 0

    return HostMerging(
        run=told("run"),
        shared=told("pages_shared"),
        sharing=told("pages_sharing"),
        unshared=told("pages_unshared"),
        volatile=told("pages_volatile"),
        zero=told("ksm_zero_pages"),
        full_scans=told("full_scans"),
        pages_to_scan=told("pages_to_scan"),
        sleep_milliseconds=told("sleep_millisecs"),
    )


def has_merged(directory: Path = KSM) -> bool:
    """Whether KSM merges pages now, or has merged some. Raises GuestError as `host_merging` does."""
    host = host_merging(directory)
    return host is not None and (host.running or host.shared > 0 or host.zero > 0)


def process_merging(pid: int, proc: Path = PROC) -> ProcessMerging | None:
    """A process's counters; None where it is gone, may not be asked (CAP_DAC_READ_SEARCH), or the kernel tells nothing.

    ksm_stat came piece by piece, the last with Linux 6.8; ksm_merging_pages, with 5.19, is older. Raises GuestError if
    a resource is exhausted.
    """
    told: dict[str, int] = {}
    for line in (_text(proc / str(pid) / "ksm_stat") or "").splitlines():
        name, _, value = line.partition(" ")
        number = _natural(value)
        if number is not None:
            told[name.rstrip(":")] = number
    merging = told.get("ksm_merging_pages", _number(proc / str(pid) / "ksm_merging_pages"))
    if merging is None:
        return None
    return ProcessMerging(merging, told.get("ksm_zero_pages", 0), told.get("ksm_rmap_items", 0))


def read_merging(processes: Mapping[GuestId, Process], before: Merging | None = None) -> Merging | None:
    """KSM's counters of the host and of the guests' `processes`, without those that ended. None if the kernel has
    no KSM; `before` if a resource is exhausted.
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
