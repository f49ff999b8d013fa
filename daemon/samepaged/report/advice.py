"""Advice on KSM for this host: the gain, the guests with the most potential, the obstacles, and the cost. As ten lines
for people, or as an object for programs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from samepaged.escape import printable, valid
from samepaged.formatting import duration, size
from samepaged.ksm import expected_profit
from samepaged.scan.label_values import SHORT_OBSTACLES
from samepaged.text_layout import elided, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from samepaged.ksm import HostMerging, Merging
    from samepaged.scan.results import HostScan
    from samepaged.sharing import GuestSharing

__all__ = ["Advice"]

SCHEMA: Final = 1
MAX_NAMES: Final = 3
MAX_NAME_COLUMNS: Final = 24
# KSM merges a page if a second pass finds it unchanged: a pass should not take longer than this.
MAX_PASS_SECONDS: Final = 900.0
# Smallest profit that is worth enabling KSM: a ratio of the guests' memory, and bytes.
WORTH_RATIO: Final = 0.02
WORTH_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Advice:
    """A scan, and the KSM counters at that time (None without KSM in the kernel)."""

    scan: HostScan
    merging: Merging | None
    pages: Mapping[str, int]
    """Mergeable pages of each guest by its name (HostScan.mergeable_pages)."""

    @classmethod
    def of(cls, scan: HostScan, merging: Merging | None) -> Advice:
        """Return the advice for a scan."""
        return cls(scan, merging, scan.mergeable_pages)

    @property
    def worth_it(self) -> bool:
        """Whether enabling KSM is advised."""
        return self.scan.expected_profit_bytes >= max(WORTH_BYTES, WORTH_RATIO * self._memory)

    @property
    def _page(self) -> int:
        return self.scan.report.page_size

    @property
    def _memory(self) -> int:
        return sum(guest.memory_pages for guest in self.scan.report.guests) * self._page

    @property
    def _obstacles(self) -> dict[str, list[GuestSharing]]:
        """The guests with unmergeable memory by obstacle, those with the largest potential first."""
        words = {one.name: one.merge_obstacle for one in self.scan.scans}
        found: defaultdict[str, list[GuestSharing]] = defaultdict(list)
        for guest in self._ranked_guests():
            word = words[guest.name]
            if word is not None:
                found[word].append(guest)
        return dict(found)

    def _ranked_guests(self) -> list[GuestSharing]:
        return sorted(self.scan.report.guests, key=lambda guest: (-self.pages[guest.name], guest.name))

    def _cross_group_pages(self) -> int:
        """Pages of sharing that exist only between guests of different groups."""
        report = self.scan.report
        return report.inter_sharing_pages - sum(group.inter_sharing_pages for group in report.groups)

    def text(self, width: int = 80) -> str:
        """Return about ten lines of at most `width` columns."""
        return "\n".join(line for part in self._parts() for line in wrapped(part, width, first="", rest="  "))

    def _parts(self) -> Iterator[str]:
        scan = self.scan
        if not scan.report.guests:
            yield "The scan did not include any guest; advice is not possible."
            return
        count, potential = len(scan.report.guests), scan.potential_pages
        yield (
            f"{count} guest{'s' * (count > 1)} with {size(self._memory)}: merging could save {self._size(potential)} "
            f"({potential * self._page / max(self._memory, 1):.1%}):"
        )
        yield (
            f"  self-sharing {self._size(scan.report.self_sharing_pages)}, inter-VM sharing "
            f"{self._size(scan.report.inter_sharing_pages)}, zero pages {self._size(scan.backed_zero_pages)}"
        )
        yield self._verdict()
        yield self._state()
        if names := self._names([guest for guest in self._ranked_guests() if self.pages[guest.name]]):
            yield f"Most to merge: {names}"
        for word, guests in self._obstacles.items():
            yield f"Not mergeable: {SHORT_OBSTACLES.get(word, word)}: {self._names(guests)}"
        yield from self._cost()
        if (across := self._cross_group_pages()) > 0:
            yield f"Warning: {self._size(across)} is shared across groups, which is a side channel between tenants."

    def _verdict(self) -> str:
        attainable, attended = self.scan.attainable_pages, self.scan.attended_pages
        profit = self.scan.expected_profit_bytes
        advice = "use KSM." if self.worth_it else "KSM hardly pays." if profit > 0 else "do not use KSM."
        return (
            f"Advice: {advice} Attainable {self._size(attainable)} minus {size(-expected_profit(0, attended))} of "
            f"bookkeeping: {'nothing' if profit <= 0 else size(profit)}"
        )

    def _state(self) -> str:
        if self.merging is None:
            return "This kernel does not support KSM (CONFIG_KSM)."
        host = self.merging.host
        part = f" ({host.merged_pages / self.scan.potential_pages:.0%})" if self.scan.potential_pages else ""
        merged = f"has merged {self._size(host.merged_pages)}{part}" if host.merged_pages else "has merged nothing"
        enable = "; enable it: echo 1 >/sys/kernel/mm/ksm/run" if self.worth_it and not host.running else ""
        return f"KSM is {'on' if host.running else 'off'}, {merged}{enable}"

    def _cost(self) -> Iterator[str]:
        """The CPU cost of KSM, which merges a page if a second pass finds it unchanged."""
        if self.merging is None or not self.scan.attended_pages:
            return
        host, attended = self.merging.host, self.scan.attended_pages
        if not (host.pages_to_scan and host.sleep_milliseconds):
            return
        rate = host.pages_to_scan * 1000 / host.sleep_milliseconds
        yield (
            f"Cost: KSM reads {size(int(rate * self._page))}/s (pages_to_scan={host.pages_to_scan}): two passes of "
            f"{duration(attended / rate)} to merge"
        )
        if attended / rate > 2 * MAX_PASS_SECONDS:
            enough = math.ceil(attended / MAX_PASS_SECONDS * host.sleep_milliseconds / 1000 / 100) * 100
            yield f"  pages_to_scan={enough} would reduce a pass to {duration(MAX_PASS_SECONDS)}, for more CPU time"

    def _size(self, pages: int) -> str:
        return size(pages * self._page)

    def _names(self, guests: list[GuestSharing]) -> str:
        shown = [
            f"{elided(printable(guest.name), MAX_NAME_COLUMNS)} ({self._size(self.pages[guest.name])})"
            for guest in guests[:MAX_NAMES]
        ]
        more = len(guests) - MAX_NAMES
        return ", ".join(shown) + (f" and {more} more" if more > 0 else "")

    def document(self) -> dict[str, Any]:
        """Return the advice as an object for `json.dumps`: counts in pages of `page_size` bytes, valid Unicode."""
        report, scan = self.scan.report, self.scan
        words = {one.name: one.merge_obstacle for one in scan.scans}
        processes = {} if self.merging is None else self.merging.guests
        merged = {one.name: processes.get(one.guest_id) for one in scan.scans}
        return {
            "schema": SCHEMA,
            "page_size": self._page,
            "memory_pages": sum(guest.memory_pages for guest in report.guests),
            "self_sharing_pages": report.self_sharing_pages,
            "inter_sharing_pages": report.inter_sharing_pages,
            "across_groups_pages": self._cross_group_pages(),
            "zero_pages": scan.backed_zero_pages,
            "potential_pages": scan.potential_pages,
            "attainable_pages": scan.attainable_pages,
            "attended_pages": scan.attended_pages,
            "expected_profit_bytes": self.scan.expected_profit_bytes,
            "worth_it": self.worth_it,
            "ksm": None if self.merging is None else _state_of(self.merging.host),
            "domains": [
                {
                    "name": valid(guest.name),
                    "potential_pages": self.pages[guest.name],
                    "merged_pages": None if (process := merged[guest.name]) is None else process.merged_pages,
                    "obstacle": words[guest.name],
                }
                for guest in self._ranked_guests()
            ],
            "skipped": [one.document() for one in scan.skipped],
        }


def _state_of(host: HostMerging) -> dict[str, int | bool]:
    return {
        "running": host.running,
        "merged_pages": host.merged_pages,
        "profit_bytes": host.profit_bytes,
        "full_scans": host.full_scans,
        "pages_to_scan": host.pages_to_scan,
        "sleep_milliseconds": host.sleep_milliseconds,
    }
