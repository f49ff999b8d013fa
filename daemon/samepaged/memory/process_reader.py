"""The reader `process`: reads a guest's memory from its QEMU process, in any consistency mode."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from samepaged import ksm
from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.memory import softdirty
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.memory.modes import (
    SHORT_SNAPSHOT_SECONDS,
    SLICE_RATIO,
    FallbackReason,
    Plan,
    Workload,
    calibrate,
    choose_mode,
    fallback_plan,
    fit_budget,
    total_pause_seconds,
)
from samepaged.memory.observer import PageAccess
from samepaged.memory.precopy import PAUSE_TOO_SHORT_FOR_COPY, DoesNotConverge, Precopy, Verification
from samepaged.memory.process_ram import ProcessRam
from samepaged.memory.ram_location import locate_ram, merge_obstacle, read_smaps
from samepaged.memory.reader import Capture, Forecast, PauseMeter
from samepaged.memory.scan_state import EarlierScan, SoftDirtyEpoch
from samepaged.memory.sliced import read_sliced
from samepaged.memory.softdirty import LockHeld
from samepaged.sharing.digest import PageDigest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from samepaged.drift.budget import DriftBudget
    from samepaged.memory.modes import ThroughputModel
    from samepaged.memory.observer import PageObserver
    from samepaged.memory.reader import GuestControl, GuestMemory, ScanRequest
    from samepaged.memory.scan_state import ScanState

__all__ = ["GUEST_BUSY", "ProcessReader", "fit_request", "forecast_scan", "plan_scan"]

GUEST_BUSY: Final = FallbackReason("busy", "the guest writes faster than precopy can read within scan.max_pause")
LOCK_HELD: Final = FallbackReason("claimed", "another samepaged process uses the guest's soft-dirty bits")
MISSED_WRITES: Final = FallbackReason("distrusted", "an earlier scan found that its soft-dirty bits miss writes")


class ProcessReader:
    """A `Reader` of the RAM mappings of a QEMU process."""

    name: ClassVar[str] = "process"
    label: ClassVar[str] = "was read from its QEMU process"
    modes: ClassVar[frozenset[str]] = frozenset({"snapshot", "precopy", "sliced", "live"})
    needs_process: ClassVar[bool] = True

    def __init__(
        self, guest: GuestMemory, request: ScanRequest, state: ScanState, replaced: GuestError | None = None
    ) -> None:
        self._guest = guest
        self._request = request
        self._state = state
        self._replaced = replaced
        self._mappings = locate_ram(read_smaps(guest.pid), guest.blocks)

    def forecast(self) -> Forecast:
        """As in Reader."""
        hashing = Hashing(best_hasher(), seed=0, threads=1, stop=lambda: False)
        with ProcessRam(self._guest.pid, self._mappings, hashing) as ram:
            ram.check_readable()
            return forecast_scan(ram, self._guest, self._request, self._state)

    def read(self, control: GuestControl, hashing: Hashing, observer: PageObserver, earlier: EarlierScan) -> Capture:
        """As in Reader."""
        with ProcessRam(self._guest.pid, self._mappings, hashing) as ram:
            scan = _ProcessScan(self._guest, control, hashing, self._request, self._state, ram, observer)
            captured = scan.run(earlier)
            not_exclusive = ram.count_not_exclusive()
        return replace(captured, merge_obstacle=merge_obstacle(self._mappings), not_exclusive=not_exclusive)


def forecast_scan(ram: ProcessRam, guest: GuestMemory, request: ScanRequest, state: ScanState) -> Forecast:
    """The plan for a scan with its predicted pauses. Raises GuestError as plan_scan does."""
    throughput, max_pause = state.throughput, request.config.max_pause
    snapshot = _snapshot_seconds(ram, throughput)
    chosen = plan_scan(ram, guest, request, state)
    if chosen.mode == "precopy" and _precopy_seconds(ram, throughput) > max_pause:
        chosen = _busy_plan(ram, request, throughput, GUEST_BUSY)
    obstacle = chosen.fallback
    if obstacle is None and request.config.mode == "auto" and chosen.mode == "snapshot":
        # A snapshot is the best mode if another client paused the guest, or if it is short; otherwise there is a reason
        # against precopy.
        best = guest.paused or snapshot <= SHORT_SNAPSHOT_SECONDS
        obstacle = None if best else _precopy_obstacle(ram, guest, state)
    pauses = {
        "snapshot": snapshot,
        "precopy": _precopy_seconds(ram, throughput),
        "sliced": min(snapshot, throughput.overhead + SLICE_RATIO * max_pause),
        "live": 0.0,
    }
    backed = ram.count_backed()
    later = total_pause_seconds(Workload(ram.pages, backed, first=False), throughput, max_pause)
    return Forecast(
        mode=chosen.mode,
        reader=ProcessReader.name,
        pause=0.0 if guest.paused else pauses[chosen.mode],
        snapshot=snapshot,
        backed=backed * PAGE_SIZE,
        obstacle=obstacle,
        total=0.0 if guest.paused else later[chosen.mode],
        mappings=ram.mappings,
    )


def plan_scan(
    ram: ProcessRam, guest: GuestMemory, request: ScanRequest, state: ScanState, *, first: bool = True
) -> Plan:
    """The plan for a scan; `first` if precopy starts without an earlier scan. Raises GuestError, also if the scan
    exceeds the drift budget.
    """
    config = request.config
    fixed = config.mode in {"snapshot", "sliced", "live"}
    if guest.paused or config.mode == "live" or (fixed and math.isinf(request.budget.limit)):
        return choose_mode(config.mode, paused=guest.paused, snapshot_seconds=0, max_pause=0, obstacle=None)
    work = Workload(ram.pages, ram.count_backed(), first)
    obstacle = None if fixed else _precopy_obstacle(ram, guest, state)
    snapshot = state.throughput.overhead + state.throughput.seconds(work.backed)
    chosen = choose_mode(
        config.mode, paused=False, snapshot_seconds=snapshot, max_pause=config.max_pause, obstacle=obstacle
    )
    return fit_request(chosen, work, request, state.throughput, obstacle=obstacle)


def fit_request(
    chosen: Plan,
    work: Workload,
    request: ScanRequest,
    throughput: ThroughputModel,
    *,
    obstacle: FallbackReason | None,
) -> Plan:
    """Return the chosen mode, or for `auto` a cheaper one, that fits the drift budget. `obstacle` is the reason against
    precopy. Raises GuestError.
    """
    if math.isinf(request.budget.limit):
        return chosen
    max_pause = request.config.max_pause
    return fit_budget(
        chosen,
        total_pause_seconds(work, throughput, max_pause),
        request.budget,
        auto=request.config.mode == "auto",
        snapshot_fits=throughput.overhead + throughput.seconds(work.backed) <= max_pause,
        obstacle=obstacle,
    )


def _busy_plan(ram: ProcessRam, request: ScanRequest, throughput: ThroughputModel, reason: FallbackReason) -> Plan:
    """The plan if precopy was chosen but is not possible for this reason. Raises GuestError."""
    work = Workload(ram.pages, ram.count_backed(), first=True)
    chosen = fallback_plan(_snapshot_seconds(ram, throughput), request.config.max_pause, reason)
    return fit_request(chosen, work, request, throughput, obstacle=reason)


def _snapshot_seconds(ram: ProcessRam, throughput: ThroughputModel) -> float:
    """Predicted pause of a snapshot in seconds, from the number of pages that the host backs now."""
    return throughput.overhead + throughput.seconds(ram.count_backed())


def _precopy_seconds(ram: ProcessRam, throughput: ThroughputModel) -> float:
    """Predicted pause of precopy in seconds for an idle guest: the time to read its soft-dirty bits."""
    return throughput.overhead + throughput.looking * ram.pages


def _precopy_obstacle(ram: ProcessRam, guest: GuestMemory, state: ScanState) -> FallbackReason | None:
    found = softdirty.obstacle(ram.pid, ram.mappings, vfio=guest.vfio)
    return MISSED_WRITES if found is None and state.distrusted else found


@dataclass(slots=True)
class _ProcessScan:
    """One scan of a guest through its open RAM mappings."""

    guest: GuestMemory
    control: GuestControl
    hashing: Hashing
    request: ScanRequest
    state: ScanState
    ram: ProcessRam
    observer: PageObserver

    @property
    def _budget(self) -> DriftBudget:
        return self.request.budget

    @property
    def _max_pause(self) -> float:
        return self.request.config.max_pause

    def run(self, earlier: EarlierScan) -> Capture:
        """As Reader.read, without the facts about merging."""
        throughput = self.state.throughput
        with self.state.restored_if_refused(earlier):
            chosen = self._plan(first=earlier.digest is None or earlier.epoch is None)
        meter = PauseMeter(self.control.pause)
        self.control = replace(self.control, pause=meter)
        try:
            captured = self._run(chosen, earlier)
        except GuestError as error:
            if error.reason is Reason.DRIFT_BUDGET:  # the unfinished scan already took longer than predicted
                throughput.learn_total(chosen.total, 2 * meter.seconds)
            raise
        if captured.mode == chosen.mode:
            throughput.learn_total(chosen.total, meter.seconds)
        return captured

    def _plan(self, *, first: bool) -> Plan:
        """The plan for the scan. If it exceeds even a full drift budget, the prediction may be wrong: the speed of
        reading the guest is then measured, and the mode chosen again.
        """
        try:
            return plan_scan(self.ram, self.guest, self.request, self.state, first=first)
        except GuestError as error:
            if error.reason is not Reason.DRIFT_BUDGET:
                raise
            throughput = self.state.throughput
            throughput.reconsider_total()
            if throughput.measured and self._budget.remaining_seconds() < self._budget.limit:
                raise
            with ProcessRam(self.guest.pid, self.ram.mappings, replace(self.hashing, subpages=None)) as sample:
                calibrate(sample, throughput)
            return plan_scan(self.ram, self.guest, self.request, self.state, first=first)

    def _run(self, chosen: Plan, earlier: EarlierScan) -> Capture:
        pages: NDArray[np.uint64] | None = None
        if chosen.mode in {"snapshot", "precopy"}:
            self.observer.prepare(PageAccess(self.ram))
        if chosen.mode == "precopy":
            try:
                pages = self._precopy(earlier)
            except (DoesNotConverge, LockHeld) as error:
                reason = LOCK_HELD if isinstance(error, LockHeld) else GUEST_BUSY
                chosen = _busy_plan(self.ram, self.request, self.state.throughput, reason)
        if pages is None:
            if chosen.mode == "sliced" and self.request.one_instant:
                raise self._pause_error()
            pages = self._read(chosen.mode)
        digest = PageDigest(pages, PAGE_SIZE)
        return Capture(digest, chosen.mode, ProcessReader.name, self.ram.bytes_read, chosen.fallback)

    def _pause_error(self) -> GuestError:
        seconds = _snapshot_seconds(self.ram, self.state.throughput)
        return GuestError(
            Reason.TOO_LONG,
            f"reading the guest at one instant may take {seconds:.1f} s, and scan.max_pause is {self._max_pause:g} s",
            "use `--mode snapshot` to allow a longer pause",
        )

    def _read(self, mode: str) -> NDArray[np.uint64]:
        if mode in {"sliced", "live"}:
            self.observer.decline(f"its memory was read in mode {mode}, at more than one instant")
        if mode == "sliced":
            return read_sliced(
                self.ram,
                self.control.pause,
                max_pause=self._max_pause,
                max_duty=self.request.config.max_duty,
                stop=self.hashing.stop,
                budget=self._budget,
                overhead=self.state.throughput.overhead,
            )
        if mode == "live":
            return self.ram.read()
        return self._snapshot()

    def _snapshot(self) -> NDArray[np.uint64]:
        ram, throughput, paused = self.ram, self.state.throughput, self.guest.paused
        before = ram.bytes_read
        alone = _snapshot_seconds(ram, throughput)
        # Only a configured mode `snapshot` may exceed max_pause: `auto` chooses a snapshot if it is shorter.
        asked = self.request.config.mode == "snapshot" and not paused
        copying = throughput.copying_seconds(self.observer.expected_copies(None))
        bounds = (self._max_pause, self._budget.remaining_seconds())
        if not paused and any(alone <= bound < alone + copying for bound in bounds):
            if self.request.one_instant:
                raise self._pause_error()
            self.observer.decline(PAUSE_TOO_SHORT_FOR_COPY)
            throughput.reconsider_copying()
            copying = 0.0
        expected = alone + copying
        with self.control.pause(expected if asked else min(expected, self._max_pause)) as suspended:
            began = time.monotonic()
            where = ram.look()
            looked = time.monotonic()
            access = PageAccess(ram, where)
            with self.observer.while_suspended(access, None):
                copied = time.monotonic()
                pages = ram.read(where=where)
                read = time.monotonic()
            ended = time.monotonic()
        if not paused:
            throughput.learn_overhead(suspended.seconds - (ended - began))
        throughput.learn((ram.bytes_read - before) // PAGE_SIZE, read - copied + looked - began)
        throughput.learn_copying(access.copied, copied - looked + ended - read)
        return pages

    def _precopy(self, earlier: EarlierScan) -> NDArray[np.uint64]:
        ram = self.ram
        digest, epoch = earlier.digest, earlier.epoch
        lasts = epoch is not None and epoch.lasts(ram.pid, ram.mappings)
        if epoch is None or not lasts or digest is None or len(digest) != ram.pages:
            if epoch is not None:
                epoch.end()
            digest, epoch = None, SoftDirtyEpoch.begin(ram.pid, ram.mappings)
        try:
            pages = self._read_changes(digest)
        except BaseException:
            epoch.end()
            raise
        # KSM was paused or idle until here, so the epoch is valid. Later KSM activity ends it.
        self.state.epoch = epoch
        return pages

    def _read_changes(self, digest: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
        ram = self.ram
        mergeable = any(mapping.mergeable for mapping in ram.mappings)
        with ExitStack() as stack:
            if mergeable and self.request.config.still_ksm:
                stack.enter_context(ksm.paused(self.control.directory))
            idle = ksm.activity()
            scan = Precopy(
                ram=ram,
                pause=self.control.pause,
                throughput=self.state.throughput,
                max_pause=self._max_pause,
                merging=lambda: mergeable and (ksm.is_running() or ksm.activity() != idle),
                verification=self._verification(),
                observer=self.observer,
            )
            try:
                return scan.run(None if digest is None else digest.copy())
            except GuestError as error:
                self.state.distrusted |= error.reason is Reason.VERIFICATION
                raise

    def _verification(self) -> Verification | None:
        config = self.request.config
        if not config.verify_every or self.state.scans % config.verify_every:
            return None
        return Verification(config.verify_pages, np.random.default_rng())
