"""Scans within a drift budget: the chosen mode, refused scans, and the state after a refusal."""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from samepaged.arch import PAGE_SIZE
from samepaged.drift.budget import FixedBudget
from samepaged.errors import GuestError, Reason
from samepaged.guard.suspend import SuspendedDomain
from samepaged.memory import process_reader as module
from samepaged.memory import sliced
from samepaged.memory.capture import capture
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.memory.modes import FallbackReason, Plan, ThroughputModel, Workload, fit_budget, total_pause_seconds
from samepaged.memory.reader import GuestControl, GuestMemory, PauseMeter
from samepaged.memory.scan_state import ScanState
from samepaged.memory.sliced import MAX_WAIT_SECONDS, read_sliced
from tests.support.clock import Clock
from tests.support.scan_request import scan_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

OBSTACLE = FallbackReason("kernel", "no bits")
COSTS = {"snapshot": 0.3, "precopy": 0.2, "sliced": 0.4, "live": 0.0}
PAGES = 1237


def chosen(
    mode: str, left: float, *, auto: bool = True, fits: bool = True, obstacle: FallbackReason | None = None
) -> Plan:
    return fit_budget(Plan(mode), COSTS, FixedBudget(left), auto=auto, snapshot_fits=fits, obstacle=obstacle)


def test_a_mode_that_fits_is_taken() -> None:
    assert chosen("precopy", 0.2) == Plan("precopy", None, 0.2)
    assert chosen("live", 0.0) == Plan("live")


def test_auto_takes_a_cheaper_mode() -> None:
    assert chosen("snapshot", 0.25) == Plan("precopy", None, 0.2)
    assert fit_budget(
        Plan("precopy"), COSTS | {"precopy": 0.5}, FixedBudget(0.35), auto=True, snapshot_fits=True, obstacle=None
    ) == Plan("snapshot", None, 0.3)
    dear = COSTS | {"precopy": 0.5}
    found = fit_budget(Plan("precopy"), dear, FixedBudget(0.45), auto=True, snapshot_fits=False, obstacle=None)
    assert found.mode == "sliced"
    assert found.fallback is not None
    assert found.fallback.code == "drift"


@pytest.mark.parametrize(
    ("mode", "left", "auto", "least"),
    [("snapshot", 0.1, True, "200 ms"), ("snapshot", 0.25, False, "300 ms"), ("sliced", 0.35, False, "400 ms")],
)
def test_refusal_names_minimum_pause(mode: str, left: float, auto: bool, least: str) -> None:  # noqa: FBT001 - a parameter
    with pytest.raises(GuestError, match=f"about {least} in total") as caught:
        chosen(mode, left, auto=auto)
    assert caught.value.reason is Reason.DRIFT_BUDGET


def test_totals_sum_all_pauses() -> None:
    pace = ThroughputModel(rate=1e9, overhead=0.01, looking=1e-7, clearing=1e-7)
    found = total_pause_seconds(Workload(pages=1_000_000, backed=244_141, first=True), pace, max_pause=0.2)
    assert found["snapshot"] == pytest.approx(1.01, rel=0.01)
    assert found["sliced"] == pytest.approx(1.1, rel=0.01)  # ten slices or eleven
    assert found["precopy"] == pytest.approx(0.33, rel=0.01)
    later = total_pause_seconds(Workload(pages=1_000_000, backed=244_141, first=False), pace, max_pause=0.2)
    assert found["precopy"] - later["precopy"] == pytest.approx(0.01)
    pace.learn_total(1.0, 2.0)
    assert total_pause_seconds(Workload(1_000_000, 244_141, first=True), pace, 0.2)["snapshot"] == pytest.approx(
        2.02, rel=0.01
    )


def test_predictions_rise_fast_fall_slowly() -> None:
    pace = ThroughputModel()
    pace.learn_total(1.0, 3.0)
    assert pace.correction == 3
    pace.learn_total(3.0, 1.0)
    assert pace.correction == 2
    pace.reconsider_total()
    assert pace.correction == pytest.approx(2 / 1.1)
    for _ in range(20):
        pace.reconsider_total()
    assert pace.correction == 1


def test_slow_pause_is_reconsidered() -> None:
    """Only a pause measures these values, and a refused guest is not paused."""
    pace = ThroughputModel()
    pace.learn_overhead(1.9)
    pace.learn_clearing(1 << 20, 2.0)
    for _ in range(60):
        pace.reconsider_total()
    assert pace.overhead == ThroughputModel().overhead
    assert pace.clearing == ThroughputModel().clearing
    pace.overhead = pace.clearing = 1e-9
    pace.reconsider_total()
    assert (pace.overhead, pace.clearing) == (1e-9, 1e-9)


class Ram:
    """Memory of this process that stands for a guest's RAM in QEMU, and its scans."""

    def __init__(self, directory: Path) -> None:
        self.area = mmap.mmap(-1, PAGES * PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.area.madvise(mmap.MADV_DONTFORK)
        self.area.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(PAGES):
            self.area[page * PAGE_SIZE] = 1
        self.pauses: list[float] = []
        self.source = GuestMemory(os.getpid(), (PAGES * PAGE_SIZE,), paused=False, vfio=False)
        self.control = GuestControl(self.pause, lambda _: None, directory)

    @contextlib.contextmanager
    def pause(self, expected: float = 0.0, *, dumping: bool = False) -> Iterator[SuspendedDomain]:
        assert not dumping
        self.pauses.append(expected)
        held = SuspendedDomain()
        yield held
        held.seconds = 0.125

    def scan(self, kept: ScanState, limit: float, mode: str = "auto") -> str:
        request = scan_request(mode, "process", 0.25, 0.5, budget=FixedBudget(limit))
        return capture(self.source, self.control, Hashing(best_hasher(), 7, 1, lambda: False), request, kept).mode


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Ram]:
    ram = Ram(tmp_path)
    with ram.area:
        yield ram


def test_refused_scan_keeps_the_budget(ram: Ram) -> None:
    kept = ScanState(0)
    assert ram.scan(kept, 10) == "snapshot"
    before, ram.pauses[:] = kept.digest, []
    assert before is not None
    with pytest.raises(GuestError) as caught:
        ram.scan(kept, 1e-6)
    assert caught.value.reason is Reason.DRIFT_BUDGET
    assert ram.pauses == []
    assert kept.digest is before
    assert kept.scans == 1


def test_assumed_speed_is_measured_first(ram: Ram) -> None:
    slow = ScanState(0, ThroughputModel(rate=1e6))
    assert ram.scan(slow, 1.8, "snapshot") == "snapshot"
    assert slow.throughput.measured
    assert len(ram.pauses) == 1


def test_measuring_suspends_nothing(ram: Ram, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(module, "calibrate", lambda reader, _: measured.append(reader.pages))
    with pytest.raises(GuestError):
        ram.scan(ScanState(0, ThroughputModel(rate=1e6)), 1.8, "sliced")
    assert measured == [PAGES]
    assert ram.pauses == []


def test_scan_updates_the_correction(ram: Ram) -> None:
    kept = ScanState(0, ThroughputModel(rate=1e9, overhead=0.01))
    ram.scan(kept, 1.8, "snapshot")
    assert kept.throughput.correction == pytest.approx(0.125 / (0.01 + PAGES * PAGE_SIZE / 1e9), rel=0.01)


def test_a_dump_is_refused_alike(ram: Ram) -> None:
    request = scan_request("snapshot", "dump", 0.25, 0.5, budget=FixedBudget(0.001))
    kept = ScanState(0, digest=np.zeros(1, np.uint64))
    with pytest.raises(GuestError) as caught:
        capture(ram.source, ram.control, Hashing(best_hasher(), 7, 1, lambda: False), request, kept)
    assert caught.value.reason is Reason.DRIFT_BUDGET
    assert kept.digest is not None
    assert ram.pauses == []


class Reader:
    """A reader that takes four milliseconds for each call."""

    pages = 2048 * 8

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def read(self, first: int, last: int, out: NDArray[np.uint64]) -> None:
        self._clock.sleep(0.004)
        out[:] = np.arange(first, last)


class Budget(FixedBudget):
    """A budget that pauses use up, and that is full again after `wait_seconds`."""

    def __init__(self, left: float, wait_seconds: float) -> None:
        super().__init__(1.0)
        self.now_left, self.wait_seconds, self.waits = left, wait_seconds, 0

    def remaining_seconds(self) -> float:
        return self.now_left

    def seconds_until(self, seconds: float) -> float:
        self.waits += 1
        if self.wait_seconds <= MAX_WAIT_SECONDS:
            self.now_left = 1.0
        return self.wait_seconds


def slices(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The lengths of the slices of one guest."""
    found: list[float] = []
    clock = Clock()
    monkeypatch.setattr(sliced, "time", clock)

    @contextlib.contextmanager
    def pause(expected: float = 0.0, *, dumping: bool = False) -> Iterator[SuspendedDomain]:
        assert not dumping
        assert expected <= budget.now_left + 1e-9
        held, began = SuspendedDomain(), clock.now
        yield held
        held.seconds = clock.now - began
        found.append(held.seconds)
        budget.now_left -= held.seconds

    digest = read_sliced(
        Reader(clock),  # type: ignore[arg-type] # stands for a reader
        pause,
        max_pause=0.05,
        max_duty=1.0,
        stop=lambda: False,
        budget=budget,
        overhead=0.001,
    )
    assert digest.tolist() == list(range(Reader.pages))
    return found


def test_slice_ends_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(0.008, wait_seconds=0.01)
    found = slices(budget, monkeypatch)
    assert budget.waits == 1
    assert found[0] < 0.02


def test_empty_budget_ends_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(0.008, wait_seconds=MAX_WAIT_SECONDS + 1)
    with pytest.raises(GuestError) as caught:
        slices(budget, monkeypatch)
    assert caught.value.reason is Reason.DRIFT_BUDGET
    assert budget.waits > 0


def test_the_meter_counts_failed_pauses_too() -> None:
    @contextlib.contextmanager
    def pause(expected: float = 0.0, *, dumping: bool = False) -> Iterator[SuspendedDomain]:
        assert (expected, dumping) == (0.5, True)
        held = SuspendedDomain()
        try:
            yield held
        finally:
            held.seconds = 0.25

    meter = PauseMeter(pause)
    with meter(0.5, dumping=True):
        pass
    with pytest.raises(ZeroDivisionError), meter(0.5, dumping=True):
        raise ZeroDivisionError
    assert meter.seconds == 0.5


def test_paused_guest_needs_no_budget(ram: Ram) -> None:
    ram.source = replace(ram.source, paused=True)
    assert ram.scan(ScanState(0), 0.0) == "snapshot"
