"""Precopy on a simulated machine: its clock, its soft-dirty bits, and a guest that writes while it runs."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.guard.suspend import SuspendedDomain
from samepaged.memory import precopy, softdirty
from samepaged.memory.modes import ThroughputModel
from samepaged.memory.observer import NullObserver, PageAccess
from samepaged.memory.pagemap import EXCLUSIVE, PRESENT, SOFT_DIRTY, SWAPPED, Residency
from samepaged.memory.precopy import SAMPLE_PAGES_WHILE_MERGING, DoesNotConverge, Precopy, Verification
from samepaged.sharing import FIRST_HASH
from samepaged.sharing import SWAPPED as SWAPPED_PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from samepaged.memory.observer import PageObserver

PAGES = 1 << 16


class Machine:
    """A host that reads `rate` bytes per second, reads or clears the soft-dirty bit of a page in `looking` seconds, and
    suspends in `overhead` seconds, after `arming` seconds for the guard. Its guest writes `writes` random pages per
    second among the first `hot` pages.
    """

    pid = 7

    def __init__(
        self,
        *,
        pages: int = PAGES,
        rate: float = 8e9,
        looking: float = 2e-8,
        overhead: float = 0.005,
        arming: float = 0.0,
        writes: float = 0,
        hot: int | None = None,
    ) -> None:
        self.pages, self.rate, self.looking, self.overhead, self.writes = pages, rate, looking, overhead, writes
        self.hot, self.arming = hot or pages, arming
        self.now = 0.0
        self.running = True
        self.log: list[str] = []
        self.pauses: list[float] = []
        self.hashed = 0
        self.bits = np.full(pages, PRESENT | EXCLUSIVE | SOFT_DIRTY, dtype=np.uint64)
        self.content = np.arange(pages, dtype=np.uint64) + np.uint64(FIRST_HASH)
        self.random = np.random.default_rng(7)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.running:
            written = self.random.integers(0, self.hot, int(self.writes * seconds))
            self.content[written] += np.uint64(1 << 32)
            self.bits[written] |= SOFT_DIRTY

    def entries(self, first: int = 0, last: int | None = None) -> NDArray[np.uint64]:
        self.log.append("look")
        found = self.bits[first:last].copy()
        self.pass_time(self.looking * len(found))
        return found

    def now_present(self, pages: NDArray[np.intp]) -> NDArray[np.intp]:
        self.bits[pages] = PRESENT | EXCLUSIVE
        return pages

    def copy_file_pages(self, pages: NDArray[np.intp], out: memoryview) -> None:
        raise AssertionError(pages, out)

    def look(self) -> Residency:
        present = (self.entries() & PRESENT) != 0
        return Residency(present, np.zeros_like(present), np.zeros_like(present))

    def copy_pages(self, pages: NDArray[np.intp], out: memoryview) -> None:
        self.log.append("copy")
        for at, part in enumerate(np.array_split(pages, 4)):
            words = np.frombuffer(out, dtype=np.uint64).reshape(-1, PAGE_SIZE // 8)
            first = sum(len(one) for one in np.array_split(pages, 4)[:at])
            words[first : first + len(part), 0] = self.content[part]
            self.pass_time(len(part) * PAGE_SIZE / self.rate)

    def hash_pages(self, pages: NDArray[np.intp], out: NDArray[np.uint64]) -> None:
        self.log.append("read")
        self.hashed += len(pages)
        for part in np.array_split(pages, 16):
            out[part] = self.content[part]
            self.pass_time(len(part) * PAGE_SIZE / self.rate)

    def clear(self, _: int) -> None:
        self.log.append("clear")
        self.pass_time(self.looking * self.pages)
        self.bits &= ~SOFT_DIRTY

    @contextlib.contextmanager
    def pause(self, expected: float = 0.0, *, dumping: bool = False) -> Iterator[SuspendedDomain]:
        del expected, dumping
        held = SuspendedDomain()
        self.pass_time(self.arming)  # the guest runs on meanwhile
        self.log.append("suspend")
        self.running = False
        began = self.now
        self.pass_time(self.overhead)
        try:
            yield held
        finally:
            held.seconds = self.now - began
            self.pauses.append(held.seconds)
            self.running = True
            self.log.append("resume")

    def scan(
        self,
        known: NDArray[np.uint64] | None = None,
        *,
        pace: ThroughputModel | None = None,
        budget: float = 0.25,
        merging: Callable[[], bool] = lambda: False,
        verification: Verification | None = None,
        witness: PageObserver | None = None,
    ) -> NDArray[np.uint64]:
        """Run one scan and check that it is exact. `hashed`, `pauses` and `log` are then those of this scan."""
        self.hashed = 0
        self.pauses.clear()
        self.log.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(precopy, "time", SimpleNamespace(monotonic=lambda: self.now))
            patch.setattr(softdirty, "clear", self.clear)
            scan = Precopy(
                self,  # type: ignore[arg-type] # stands for a reader
                self.pause,
                pace or ThroughputModel(),
                budget,
                merging,
                verification,
                witness or NullObserver(),
            )
            return scan.run(known)


def test_reads_wait_for_writes_in_flight() -> None:
    machine = Machine()
    machine.scan()
    assert machine.log[:5] == ["clear", "suspend", "resume", "look", "read"]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(
    rate=st.floats(5e7, 2e10),
    looking=st.floats(1e-9, 2e-6),
    overhead=st.floats(0, 0.1),
    writes=st.floats(0, 1e5),
    hot=st.integers(1, PAGES),
)
def test_precopy_is_exact_within_budget(rate: float, looking: float, overhead: float, writes: float, hot: int) -> None:
    machine = Machine(rate=rate, looking=looking, overhead=overhead, writes=writes, hot=hot)
    pace = ThroughputModel()
    known: NDArray[np.uint64] | None = None
    for _ in range(3):
        try:
            known = machine.scan(known, pace=pace)
        except DoesNotConverge:
            known = None
        else:
            instant = machine.content.copy()
            assert (known == instant).all()
        # the predicted overhead converges over several scans
        assert max(machine.pauses) <= 0.25 + overhead + 1e-6
        machine.pass_time(0.5)


def test_slow_machine_splits_rounds() -> None:
    machine = Machine(pages=1 << 18, rate=2.7e8, looking=2e-7, writes=4000)
    pace = ThroughputModel()
    machine.scan(pace=pace)
    assert pace.rate == pytest.approx(2.7e8)
    assert len(machine.pauses) > 2
    assert max(machine.pauses) <= 0.25


def test_guard_overhead_is_not_a_pause() -> None:
    machine, pace = Machine(arming=0.5), ThroughputModel()
    machine.scan(pace=pace)
    assert pace.overhead < 0.01


def test_oversized_guest_is_not_precopied() -> None:
    machine = Machine(looking=1e-5)
    with pytest.raises(DoesNotConverge):
        machine.scan()
    assert machine.hashed == 0
    assert max(machine.pauses) <= 0.25


def test_rewriting_guest_does_not_converge() -> None:
    machine = Machine(pages=1 << 18, rate=2.7e8, writes=1e6)
    with pytest.raises(DoesNotConverge):
        machine.scan()
    assert max(machine.pauses) <= 0.25


def test_rounds_continue_while_worthwhile() -> None:
    busy = Machine(pages=1 << 18, rate=1e9, overhead=0.001, looking=1e-9, writes=60_000)
    busy.scan()
    idle = Machine(pages=1 << 18, rate=1e9, overhead=0.001, looking=1e-9)
    idle.scan()
    assert len(idle.pauses) == 2
    assert len(busy.pauses) > 4
    assert max(busy.pauses) <= 0.1


def test_swapped_in_pages_are_read() -> None:
    machine = Machine()
    machine.bits[100:110] = SWAPPED
    digest = machine.scan()
    assert (digest == machine.content).all()
    assert not (digest == SWAPPED_PAGE).any()


def test_requested_verification_pages_are_checked() -> None:
    machine = Machine()
    known = machine.scan()
    machine.bits[: PAGES // 2] |= SOFT_DIRTY
    machine.scan(known, verification=Verification(1000, np.random.default_rng(7)))
    assert machine.hashed == PAGES // 2 + 1000


def test_merging_requires_sample_verification() -> None:
    machine = Machine()
    known = machine.scan()
    known = machine.scan(known)
    assert machine.hashed == 0
    machine.scan(known, merging=lambda: True)
    assert machine.hashed == SAMPLE_PAGES_WHILE_MERGING


def test_freshly_merged_pages_are_reread() -> None:
    machine = Machine()
    known = machine.scan()
    answers = iter([False, True])  # merging begins between the two calls

    def merging() -> bool:
        if not (answer := next(answers)):
            machine.content[5] += np.uint64(1 << 32)
            machine.bits[5] = PRESENT
            known[5] = 2  # known as a zero page, which is not exclusive either
        return answer

    digest = machine.scan(known, merging=merging)
    assert (digest == machine.content).all()


def test_missed_write_fails_the_scan() -> None:
    machine = Machine()
    known = machine.scan()
    machine.content += np.uint64(1 << 40)
    with pytest.raises(GuestError, match="10 of 10 sampled pages had changed, but their pagemap entries") as caught:
        machine.scan(known, verification=Verification(10, np.random.default_rng(7)))
    assert caught.value.reason is Reason.VERIFICATION


class Copying:
    """An observer of some pages, with the content of each page at its last copy."""

    def __init__(self, pages: NDArray[np.int64]) -> None:
        self.pages = pages
        self.content = np.zeros(len(pages), dtype=np.uint64)
        self.declined: list[str] = []
        self.instants = 0

    def prepare(self, copies: PageAccess) -> None:
        raise AssertionError(copies)

    def expected_copies(self, written: NDArray[np.bool_] | None) -> int:
        if self.declined:
            return 0
        return len(self.pages) if written is None else int(np.count_nonzero(written[self.pages]))

    def copy_running(self, copies: PageAccess) -> None:
        self._copy(copies, np.ones(copies.pages, dtype=np.bool_))

    def copy_written(self, copies: PageAccess, written: NDArray[np.bool_]) -> None:
        self._copy(copies, written)

    @contextlib.contextmanager
    def while_suspended(self, copies: PageAccess, written: NDArray[np.bool_] | None) -> Iterator[None]:
        assert written is not None
        self._copy(copies, written)
        yield
        self.instants += 1

    def decline(self, why: str) -> None:
        self.declined.append(why)

    def _copy(self, copies: PageAccess, written: NDArray[np.bool_]) -> None:
        own = np.flatnonzero(written[self.pages])
        buffer = memoryview(bytearray(len(own) * PAGE_SIZE))
        places = copies.copy(self.pages[own], buffer)
        assert places.min(initial=0) >= 0
        words = np.frombuffer(buffer, dtype=np.uint64).reshape(-1, PAGE_SIZE // 8)
        self.content[own] = words[places, 0]


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=40)
@given(writes=st.floats(0, 5e4), hot=st.integers(1, PAGES), rate=st.floats(2e8, 2e10))
def test_observer_sees_the_digest_instant(writes: float, hot: int, rate: float) -> None:
    machine = Machine(rate=rate, writes=writes, hot=hot)
    pace = ThroughputModel()
    known: NDArray[np.uint64] | None = None
    for _ in range(3):
        witness = Copying(np.arange(0, PAGES, 97))
        try:
            known = machine.scan(known, pace=pace, witness=witness)
        except DoesNotConverge:
            known = None
        else:
            assert (known == machine.content).all()
            assert witness.instants + len(witness.declined) == 1
            if witness.instants:
                assert (witness.content == known[witness.pages]).all()
            assert max(machine.pauses) <= 0.25 + machine.overhead + 1e-6
        machine.pass_time(0.5)


def test_declined_observer_keeps_the_scan() -> None:
    machine = Machine(rate=2e8, writes=30_000, hot=300)
    witness = Copying(np.arange(300))
    pace = ThroughputModel(copy_rate=1e6)
    digest = machine.scan(pace=pace, witness=witness)
    assert (digest == machine.content).all()
    assert pace.copy_rate > 1e6  # the slow rate may have been measured at a busy moment
    assert (witness.instants, len(witness.declined)) == (0, 1)
