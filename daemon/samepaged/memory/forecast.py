"""What a scan of a guest would do: the mode it takes and how long the guest stands still, told without reading it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.arch import PAGE_SIZE
from samepaged.drift.budget import UNLIMITED, budget_error
from samepaged.errors import GuestError, Reason
from samepaged.memory import ram_location, softdirty
from samepaged.memory.hashing import best_hasher
from samepaged.memory.modes import (
    SHORT_SNAPSHOT_SECONDS,
    FallbackReason,
    Plan,
    Workload,
    choose_mode,
    fallback_plan,
    fit_budget,
    total_pause_seconds,
)
from samepaged.memory.process_ram import ProcessRam
from samepaged.memory.ram_location import locate_ram
from samepaged.memory.sliced import SLICE_RATIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from samepaged.drift.budget import DriftBudget
    from samepaged.memory.ram_location import RamMapping
    from samepaged.memory.scan_state import ScanState
    from samepaged.memory.throughput import ThroughputModel

__all__ = [
    "TOO_BUSY",
    "Forecast",
    "Policy",
    "check_dump",
    "check_dump_budget",
    "check_dump_mode",
    "dump_seconds",
    "forecast",
    "plan",
    "snapshot_seconds",
    "within",
]

TOO_BUSY: Final = FallbackReason("busy", "the guest writes faster than it can be read within max_pause")
DISTRUSTED: Final = FallbackReason("distrusted", "its soft-dirty bits were found to miss writes")


@dataclass(frozen=True, slots=True)
class Policy:
    """What is asked of a scan, as in the configuration: mode and reader, seconds and the part of wall time that it may
    take of the guest, how many unread pages to check (0: none), whether KSM may be held still, and in which sizes
    below a page's to hash as well (bytes): with any of these, all pages are read at each scan. `one_instant`: rather
    than slices, which are of several, there is to be no scan. `budget` has the seconds for which scans may
    still suspend the guest.
    """

    mode: str
    reader: str
    max_pause: float
    max_duty: float
    verify_pages: int
    still_ksm: bool
    finer_sizes: tuple[int, ...] = ()
    one_instant: bool = False
    budget: DriftBudget = UNLIMITED


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a scan would do now. `pause` is the longest single pause that is predicted, in seconds: for precopy, that of
    a guest which writes little; it may grow up to the policy's longest. `snapshot` is what one pause for the whole
    read would take. `backed` is in bytes, None where that may not be asked (the dump reader takes all of the memory).
    `obstacle` is why no mode that is better is taken: None where there is none. `total` is for how many seconds all
    pauses of a scan suspend the guest.
    """

    mode: str
    reader: str
    pause: float
    snapshot: float
    backed: int | None
    obstacle: FallbackReason | None
    total: float = 0.0
    mappings: tuple[RamMapping, ...] = ()


def forecast(pid: int, blocks: Sequence[int], policy: Policy, kept: ScanState, *, paused: bool, vfio: bool) -> Forecast:
    """What a scan would do to the guest whose QEMU is `pid` and whose RAM blocks have these sizes (bytes). Neither the
    guest nor its process is touched: what is asked is which pages are backed, and whether they could be read. Raises
    GuestError where a scan would.
    """
    if policy.reader == "dump":
        check_dump_mode(policy, paused=paused)
        check_dump_budget(blocks, policy, kept.pace, paused=paused)
        return _of_dump(blocks, kept.pace, None, paused=paused)
    try:
        mappings = locate_ram(ram_location.read_smaps(pid), blocks)
    except GuestError as error:
        if policy.reader != "auto" or error.reason is not Reason.LAYOUT:
            raise
        check_dump(blocks, policy, kept.pace, error, paused=paused)
        check_dump_budget(blocks, policy, kept.pace, paused=paused)
        return _of_dump(blocks, kept.pace, FallbackReason("layout", str(error)), paused=paused)
    with ProcessRam(pid, mappings, hasher=best_hasher(), seed=0, threads=1, stop=lambda: False) as reader:
        reader.check_readable()
        return _of_process(reader, policy, kept, paused=paused, vfio=vfio)


def _of_dump(
    blocks: Sequence[int], pace: ThroughputModel, obstacle: FallbackReason | None, *, paused: bool
) -> Forecast:
    seconds = dump_seconds(blocks, pace)
    own = 0.0 if paused else seconds
    return Forecast("snapshot", "dump", own, seconds, None, obstacle, own)


def _of_process(reader: ProcessRam, policy: Policy, kept: ScanState, *, paused: bool, vfio: bool) -> Forecast:
    snapshot = snapshot_seconds(reader, kept.pace)
    chosen = plan(reader, policy, kept, paused=paused, vfio=vfio)
    if chosen.mode == "precopy" and _precopy_seconds(reader, kept.pace) > policy.max_pause:
        work = Workload(reader.pages, reader.count_backed(), first=True)
        chosen = fallback_plan(snapshot, policy.max_pause, TOO_BUSY)
        chosen = within(chosen, work, policy, kept.pace, obstacle=TOO_BUSY)
    obstacle = chosen.fallback
    if obstacle is None and policy.mode == "auto" and chosen.mode == "snapshot" and snapshot > SHORT_SNAPSHOT_SECONDS:
        obstacle = None if paused else _obstacle(reader, kept, vfio=vfio)
    pauses = {
        "snapshot": snapshot,
        "precopy": _precopy_seconds(reader, kept.pace),
        "sliced": min(snapshot, kept.pace.overhead + SLICE_RATIO * policy.max_pause),
        "live": 0.0,
    }
    backed = reader.count_backed()
    later = total_pause_seconds(Workload(reader.pages, backed, first=False), kept.pace, policy.max_pause)
    return Forecast(
        mode=chosen.mode,
        reader="process",
        pause=0.0 if paused else pauses[chosen.mode],
        snapshot=snapshot,
        backed=backed * PAGE_SIZE,
        obstacle=obstacle,
        total=0.0 if paused else later[chosen.mode],
        mappings=reader.mappings,
    )


def plan(reader: ProcessRam, policy: Policy, kept: ScanState, *, paused: bool, vfio: bool, first: bool = True) -> Plan:
    """The mode for a scan by this reader; `first` says that precopy has no earlier scan to begin from. Raises
    GuestError, also if the drift budget has no room for it.
    """
    fixed = policy.mode in {"snapshot", "sliced", "live"}
    if paused or policy.mode == "live" or (fixed and math.isinf(policy.budget.limit)):
        return choose_mode(policy.mode, paused=paused, snapshot_seconds=0, max_pause=0, obstacle=None)
    work = Workload(reader.pages, reader.count_backed(), first)
    obstacle = None if fixed else _obstacle(reader, kept, vfio=vfio)
    snapshot = kept.pace.overhead + kept.pace.seconds(work.backed)
    chosen = choose_mode(
        policy.mode, paused=False, snapshot_seconds=snapshot, max_pause=policy.max_pause, obstacle=obstacle
    )
    return within(chosen, work, policy, kept.pace, obstacle=obstacle)


def within(
    chosen: Plan, work: Workload, policy: Policy, pace: ThroughputModel, *, obstacle: FallbackReason | None
) -> Plan:
    """The chosen mode or, for `auto`, a cheaper one, if the drift budget has room for it; `obstacle` is why precopy is
    not possible. Raises GuestError.
    """
    if math.isinf(policy.budget.limit):
        return chosen
    return fit_budget(
        chosen,
        total_pause_seconds(work, pace, policy.max_pause),
        policy.budget,
        auto=policy.mode == "auto",
        snapshot_fits=pace.overhead + pace.seconds(work.backed) <= policy.max_pause,
        obstacle=obstacle,
    )


def snapshot_seconds(reader: ProcessRam, pace: ThroughputModel) -> float:
    """How long a snapshot would suspend the guest, as far as can be told: by what is backed of it now."""
    return pace.overhead + pace.seconds(reader.count_backed())


def _precopy_seconds(reader: ProcessRam, pace: ThroughputModel) -> float:
    """How long precopy suspends a guest that writes nothing: its bits are looked at all the same."""
    return pace.overhead + pace.looking * reader.pages


def dump_seconds(blocks: Sequence[int], pace: ThroughputModel) -> float:
    """How long a dump would suspend the guest: all of its memory is written, backed or not."""
    return pace.overhead + sum(blocks) / pace.dump_rate


def _obstacle(reader: ProcessRam, kept: ScanState, *, vfio: bool) -> FallbackReason | None:
    """Why precopy cannot be taken, or None."""
    found = softdirty.obstacle(reader.pid, reader.mappings, vfio=vfio)
    return DISTRUSTED if found is None and kept.distrusted else found


def check_dump_mode(policy: Policy, *, paused: bool) -> None:
    """Raise GuestError where a dump is asked for, in a mode that a dump cannot have."""
    if policy.mode in {"sliced", "live"} and not paused:
        raise GuestError(
            Reason.DUMP,
            f"a dump suspends the guest while all is read; use `--reader process` for mode {policy.mode}",
        )


def check_dump_budget(blocks: Sequence[int], policy: Policy, pace: ThroughputModel, *, paused: bool) -> None:
    """Raise GuestError if the drift budget has no room for a dump."""
    seconds = dump_seconds(blocks, pace)
    if not paused and seconds > policy.budget.remaining_seconds():
        raise budget_error(policy.budget, seconds)


def check_dump(
    blocks: Sequence[int], policy: Policy, pace: ThroughputModel, error: GuestError, *, paused: bool
) -> None:
    """Raise an error of the layout, for which a dump was to stand in, where that would suspend a guest that is not to
    be suspended, or for longer than it may be.
    """
    if paused or policy.mode == "snapshot":
        return
    seconds = dump_seconds(blocks, pace)
    unasked = policy.mode in {"sliced", "live"}
    if unasked or seconds > policy.max_pause:
        what, _, _ = str(error).rpartition("; ")
        remedy = "use `--mode snapshot --reader dump`" if unasked else "use `--reader dump`"
        raise GuestError(
            Reason.LAYOUT,
            f"{what}; {remedy} to have it dumped all the same: that would suspend it for about {seconds:.1f} s",
        ) from error
