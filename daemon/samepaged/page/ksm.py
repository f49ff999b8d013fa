"""KSM: the memory that the kernel has merged, and the potential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from samepaged.page.charts import Bar, Part, stacked_bar

if TYPE_CHECKING:
    from samepaged.ksm import Merging
    from samepaged.scan.results import HostScan

__all__ = ["Kernel", "Ksm", "ksm"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """The kernel's counters. `run` is from /sys/kernel/mm/ksm; sizes are in bytes, `profit` minus KSM's bookkeeping."""

    run: int
    merged: int
    profit: int
    full_scans: int

    @property
    def active(self) -> bool:
        """Whether KSM is running, or has merged pages before."""
        return self.run == 1 or self.merged > 0


@dataclass(frozen=True, slots=True)
class Ksm:
    """The section's figures in bytes. `kernel` is None if the counters cannot be read; KSM cannot merge the memory of
    `unmergeable_guests`.
    """

    kernel: Kernel | None
    potential: int
    attainable: int
    expected_profit: int
    unmergeable_guests: int
    bar: Bar


def ksm(scan: HostScan, merging: Merging | None) -> Ksm:
    """The section on KSM. `merging` is None if the kernel's counters cannot be read."""
    page = scan.report.page_size
    potential, attainable = scan.potential_pages * page, scan.attainable_pages * page
    merged = 0 if merging is None else merging.host.merged_bytes
    # KSM also merges memory of other processes, so that the merged size may exceed the guests' potential.
    whole = max(potential, merged)
    in_reach = min(max(attainable, merged), whole)
    parts = (
        Part("have", "merged now", merged),
        Part("attainable", "could be merged", in_reach - merged),
        Part("potential", "out of KSM's reach", whole - in_reach),
    )
    return Ksm(
        kernel=_kernel(merging),
        potential=potential,
        attainable=attainable,
        expected_profit=scan.expected_profit_bytes,
        unmergeable_guests=sum(1 for one in scan.scans if one.merge_obstacle is not None),
        bar=stacked_bar(parts),
    )


def _kernel(merging: Merging | None) -> Kernel | None:
    if merging is None:
        return None
    host = merging.host
    return Kernel(host.run, host.merged_bytes, host.profit_bytes, host.full_scans)
