from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.guard.suspend import SuspendedDomain
from samepaged.ksm import control as ksm
from samepaged.memory import sliced, softdirty
from samepaged.memory.hashing import Interrupted
from samepaged.memory.modes import FallbackReason, ThroughputModel, choose_mode
from samepaged.memory.pagemap import EXCLUSIVE, PRESENT, SOFT_DIRTY, SWAPPED
from samepaged.memory.ram_location import RamMapping
from samepaged.memory.scan_state import ScanState, SoftDirtyEpoch, limit_memory
from samepaged.memory.sliced import read_sliced
from samepaged.memory.softdirty import LockHeld, SoftDirtyLock
from samepaged.sharing import ABSENT, FIRST_HASH, ZERO
from samepaged.sharing import SWAPPED as SWAPPED_PAGE
from tests.support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

OBSTACLE = FallbackReason("kernel", "no bits")
MAPPING = RamMapping(0, 4096 * 8, (0, 0), 0, 0, "", shared=False, hugetlb=False, mergeable=True)


def plan(
    mode: str, seconds: float, obstacle: FallbackReason | None = None, *, paused: bool = False
) -> tuple[str, str | None]:
    chosen = choose_mode(mode, paused=paused, snapshot_seconds=seconds, max_pause=0.25, obstacle=obstacle)
    return chosen.mode, None if chosen.fallback is None else chosen.fallback.code


@pytest.mark.parametrize(
    ("mode", "seconds", "obstacle", "chosen"),
    [
        ("auto", 0.01, None, ("snapshot", None)),
        ("auto", 0.2, None, ("precopy", None)),
        ("auto", 2.0, None, ("precopy", None)),
        ("auto", 0.2, OBSTACLE, ("snapshot", None)),
        ("auto", 2.0, OBSTACLE, ("sliced", "kernel")),
        ("precopy", 0.01, None, ("precopy", None)),
        ("precopy", 0.2, OBSTACLE, ("snapshot", "kernel")),
        ("precopy", 2.0, OBSTACLE, ("sliced", "kernel")),
        ("snapshot", 9.0, OBSTACLE, ("snapshot", None)),
        ("sliced", 0.01, None, ("sliced", None)),
        ("live", 0.01, None, ("live", None)),
    ],
)
def test_most_exact_fitting_mode_is_chosen(
    mode: str, seconds: float, obstacle: FallbackReason | None, chosen: tuple[str, str | None]
) -> None:
    assert plan(mode, seconds, obstacle) == chosen


@given(st.sampled_from(["auto", "precopy", "sliced", "live", "snapshot"]), st.floats(0, 100))
def test_paused_guest_uses_snapshot(mode: str, seconds: float) -> None:
    assert plan(mode, seconds, OBSTACLE, paused=True) == ("snapshot", None)


def test_auto_respects_the_pause_limit() -> None:
    for seconds in np.linspace(0, 3, 50):
        mode, _ = plan("auto", float(seconds), OBSTACLE)
        assert mode != "snapshot" or seconds <= 0.25


def test_throughput_ignores_small_samples() -> None:
    pace = ThroughputModel(rate=1e9)
    pace.learn(3, 1e-9)
    assert pace.rate == 1e9
    for _ in range(20):
        pace.learn(250_000, 250_000 * 4096 / 8e9)
    assert pace.rate == pytest.approx(8e9, rel=0.01)
    assert pace.seconds(262_144) == pytest.approx(2**30 / 8e9, rel=0.01)


def test_slower_throughput_applies_at_once() -> None:
    pace = ThroughputModel()
    pace.learn(250_000, 250_000 * 4096 / 2e8)
    pace.learn_looking(1000, 1000 * 1e-6)
    pace.learn_clearing(1000, 1000 * 1e-6)
    pace.learn_dump(1 << 30, (1 << 30) / 2e8)
    assert [pace.rate, pace.dump_rate] == pytest.approx([2e8, 2e8])
    assert [pace.looking, pace.clearing] == pytest.approx([1e-6, 1e-6])
    pace.learn_looking(1000, 0)
    assert pace.looking == pytest.approx(0.5e-6)


CLEAN = int(PRESENT | EXCLUSIVE)


@pytest.mark.parametrize(
    ("entry", "known", "merging", "reread"),
    [
        (CLEAN, FIRST_HASH, False, False),
        (CLEAN, FIRST_HASH, True, False),
        (CLEAN | int(SOFT_DIRTY), FIRST_HASH, False, True),
        (CLEAN, ABSENT, False, True),  # backed since, by a read
        (CLEAN, SWAPPED_PAGE, False, True),  # swapped in since, by a read
        (int(PRESENT), FIRST_HASH, True, True),  # KSM may have dropped its bit
        (int(PRESENT), ZERO, True, True),
        (int(PRESENT), FIRST_HASH, False, True),  # dropped and read again: a zero page now
        (int(PRESENT), ZERO, False, False),  # a zero page then and now
        (0, FIRST_HASH, False, False),  # absent: its entry has its state
        (int(SWAPPED), FIRST_HASH, False, False),
        (int(SWAPPED | SOFT_DIRTY), FIRST_HASH, True, False),
    ],
)
def test_changed_pages_are_read_again(entry: int, known: int, merging: bool, reread: bool) -> None:  # noqa: FBT001
    found = softdirty.changed_pages(np.array([entry], np.uint64), np.array([known], np.uint64), merging=merging)
    assert found.tolist() == [reread]


@pytest.mark.parametrize(
    ("mapping", "vfio", "code"),
    [
        ({"hugetlb": True}, False, "hugetlb"),
        ({"shared": True}, False, "shared"),
        ({"inode": 7}, False, "shared"),
        ({}, True, "vfio"),
    ],
)
def test_untracked_writes_are_an_obstacle(mapping: dict[str, object], vfio: bool, code: str) -> None:  # noqa: FBT001
    fields = {name: getattr(MAPPING, name) for name in MAPPING.__slots__} | mapping
    found = softdirty.obstacle(1, [MAPPING, RamMapping(**fields)], vfio=vfio)
    assert found is not None
    assert found.code == code


def test_soft_dirty_support_is_probed() -> None:
    softdirty.supported.cache_clear()
    assert softdirty.supported() in {True, False}


class SlowReader:
    """A reader that takes `seconds_a_piece` for each call."""

    def __init__(self, pages: int, seconds_a_piece: float, clock: Clock) -> None:
        self.pages = pages
        self._seconds = seconds_a_piece
        self._clock = clock

    def read(self, first: int, last: int, out: NDArray[np.uint64]) -> None:
        self._clock.sleep(self._seconds)
        out[:] = np.arange(first, last) + FIRST_HASH


class Pauses:
    """Pauses that record the times of their starts and ends."""

    def __init__(self, clock: Clock) -> None:
        self.spans: list[tuple[float, float]] = []
        self._clock = clock

    @contextlib.contextmanager
    def __call__(self, expected: float = 0.0, *, dumping: bool = False) -> Iterator[SuspendedDomain]:
        del expected, dumping
        began = self._clock.now
        held = SuspendedDomain()
        yield held
        ended = self._clock.now
        held.seconds = ended - began
        self.spans.append((began, ended))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sliced, "time", clock)
    return clock


def test_slices_cover_every_page_once(clock: Clock) -> None:
    pauses = Pauses(clock)
    reader = SlowReader(2048 * 12 + 5, 0.004, clock)
    digest = read_sliced(reader, pauses, max_pause=0.02, max_duty=0.25, stop=lambda: False)  # type: ignore[arg-type]
    assert digest.tolist() == list(range(FIRST_HASH, FIRST_HASH + reader.pages))
    assert len(pauses.spans) > 2
    for (began, ended), (following, _) in zip(pauses.spans, pauses.spans[1:], strict=False):
        assert following - ended >= 2.9 * (ended - began)


def test_stop_ends_the_rest_between_slices(clock: Clock) -> None:
    with pytest.raises(Interrupted):
        read_sliced(
            SlowReader(2048 * 4, 0.01, clock),  # type: ignore[arg-type]
            Pauses(clock),
            max_pause=0.01,
            max_duty=0.001,
            stop=lambda: True,
        )


UNMERGED = replace(MAPPING, mergeable=False)
# Locks are host-wide: with the PID of this process, other test runs do not interfere.
PID = os.getpid()


def test_changed_mappings_end_the_epoch() -> None:
    epoch = SoftDirtyEpoch.begin(PID, (UNMERGED,))
    assert epoch.lasts(PID, (UNMERGED,))
    assert not epoch.lasts(PID + 1, (UNMERGED,))
    assert not epoch.lasts(PID, (MAPPING,))
    epoch.end()


def test_epoch_holds_the_soft_dirty_lock() -> None:
    kept = ScanState(0, epoch=SoftDirtyEpoch.begin(PID, (UNMERGED,)))
    with pytest.raises(LockHeld):
        SoftDirtyEpoch.begin(PID, (UNMERGED,))
    kept.forget()
    kept.epoch = SoftDirtyEpoch.begin(PID, (UNMERGED,))
    del kept  # as for a guest that has ended
    SoftDirtyLock(PID).release()


def test_foreign_lock_lasts_until_exit() -> None:
    hold = (
        "from samepaged.memory.softdirty import SoftDirtyLock; "
        f"held = SoftDirtyLock({PID}); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(LockHeld):
            SoftDirtyLock(PID)
        other.kill()
    SoftDirtyLock(PID).release()


def test_ksm_activity_ends_the_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ksm, "KSM", tmp_path)
    for name in ("run", *ksm.COUNTERS):
        (tmp_path / name).write_text("0\n")
    epoch = SoftDirtyEpoch.begin(PID, (MAPPING,))
    assert epoch.lasts(PID, (MAPPING,))
    (tmp_path / "pages_volatile").write_text("5\n")
    assert not epoch.lasts(PID, (MAPPING,))
    epoch.end()
    again = SoftDirtyEpoch.begin(PID, (MAPPING,))
    (tmp_path / "run").write_text("1\n")
    assert not again.lasts(PID, (MAPPING,))
    again.end()


def test_ksm_is_restored_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ksm, "KSM", tmp_path)
    run, journal = tmp_path / "run", tmp_path / ksm.JOURNAL_NAME
    run.write_text("1\n")
    with ksm.paused(tmp_path) as still:
        assert still
        assert run.read_text() == "0\n"
        assert journal.exists()
    assert run.read_text() == "1\n"
    assert not journal.exists()
    # after a crash in between: the journal exists, and KSM is paused
    run.write_text("0\n")
    journal.write_text("1\n")
    ksm.restore(tmp_path)
    assert run.read_text() == "1\n"
    assert not journal.exists()


def test_stopped_ksm_stays_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ksm, "KSM", tmp_path)
    (tmp_path / "run").write_text("2\n")
    with ksm.paused(tmp_path) as still:
        assert still
    assert (tmp_path / "run").read_text() == "2\n"
    (tmp_path / ksm.JOURNAL_NAME).write_text("1\n")
    ksm.restore(tmp_path)
    assert (tmp_path / "run").read_text() == "2\n"


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(0, 200))
def test_largest_digests_are_dropped_first(sizes: list[int], most: int) -> None:
    kept = [ScanState(0, digest=np.zeros(size, dtype=np.uint64)) for size in sizes]
    limit_memory(kept, most * 8)
    left = [len(one.digest) for one in kept if one.digest is not None]
    gone = [size for one, size in zip(kept, sizes, strict=True) if one.digest is None]
    assert sum(left) <= most
    assert all(size >= max(left, default=0) for size in gone)
    if gone:  # not more than necessary
        assert sum(left) + min(gone) > most


def test_slow_copy_is_reconsidered() -> None:
    pace = ThroughputModel()
    pace.learn_copying(2000, 2.0)
    slow = pace.copying_seconds(2000)
    before = pace.copy_rate
    pace.reconsider_copying()
    assert before < pace.copy_rate <= 1.1 * before
    for _ in range(100):
        pace.reconsider_copying()
    assert pace.copying_seconds(2000) < slow / 100
    assert pace.copy_rate == ThroughputModel().copy_rate
    pace.learn_copying(200_000, 200_000 * 4096 / 9e9)
    fast = pace.copy_rate
    pace.reconsider_copying()
    assert pace.copy_rate == fast
