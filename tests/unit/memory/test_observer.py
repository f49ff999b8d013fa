"""Observers, which copy pages of a guest at the instant of its digest: the order of calls, and the copies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest

from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.guard.suspend import SuspendedDomain
from samepaged.memory import ram_location
from samepaged.memory.capture import capture
from samepaged.memory.hashing import Hashing, Interrupted, best_hasher
from samepaged.memory.modes import ThroughputModel
from samepaged.memory.observer import ABSENT, PageAccess
from samepaged.memory.pagemap import PRESENT, Pagemap
from samepaged.memory.process_ram import ProcessRam
from samepaged.memory.ram_location import locate_ram
from samepaged.memory.reader import Capture, GuestControl, GuestMemory
from samepaged.memory.scan_state import ScanState
from tests.support.scan_request import scan_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from samepaged.memory.pagemap import Residency

# A size that differs from all other mappings.
PAGES = 5003
# Page n begins with "page n"; every third page is absent.
GUEST = f"""
import mmap, os, sys
file = {{file}}
if file >= 0:
    os.ftruncate(file, {PAGES * PAGE_SIZE})
memory = mmap.mmap(file, {PAGES * PAGE_SIZE}, mmap.MAP_PRIVATE if file < 0 else mmap.MAP_SHARED)
memory.madvise(15)  # MADV_NOHUGEPAGE
memory.madvise(mmap.MADV_DONTFORK)  # the flag that identifies QEMU's RAM
for page in range({PAGES}):
    if page % 3:
        memory[page * 4096 : page * 4096 + 16] = b"page %11d" % page
print(1, flush=True)
sys.stdin.read()
"""
PRIVATE, SHARED = "-1", "os.memfd_create('ram')"


@contextlib.contextmanager
def guest(file: str = PRIVATE) -> Iterator[int]:
    with subprocess.Popen(
        [sys.executable, "-c", GUEST.format(file=file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        yield process.pid
        process.kill()


def reader(pid: int, threads: int = 2, stop: Callable[[], bool] = lambda: False) -> ProcessRam:
    mappings = locate_ram(ram_location.read_smaps(pid), (PAGES * PAGE_SIZE,))
    return ProcessRam(pid, mappings, Hashing(best_hasher(), 7, threads, stop))


def beginnings(buffer: memoryview, places: NDArray[np.int32]) -> list[bytes | None]:
    return [
        bytes(buffer[place * PAGE_SIZE : place * PAGE_SIZE + 16]) if place >= 0 else None for place in places.tolist()
    ]


@pytest.mark.parametrize("file", [PRIVATE, SHARED])
def test_pages_are_copied_in_given_order(file: str) -> None:
    with guest(file) as pid, reader(pid) as one:
        copies = PageAccess(one, one.look())
        wanted = np.random.default_rng(3).permutation(PAGES)
        buffer = memoryview(bytearray(PAGES * PAGE_SIZE))
        places = copies.copy(wanted, buffer)
        expected = [b"page %11d" % page if page % 3 else None for page in wanted.tolist()]
        assert beginnings(buffer, places) == expected
        assert set(places[places < 0].tolist()) == {ABSENT}
        assert copies.copied == sum(page % 3 > 0 for page in range(PAGES))
        assert copies.present[wanted].tolist() == [page is not None for page in expected]
        with Pagemap(pid) as pagemap:
            entries = np.concatenate([pagemap.entries(one.start, one.size) for one in one.mappings])
        assert not (entries[::3] & PRESENT).any()


def test_residency_is_read_once_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    with guest() as pid, reader(pid) as one:
        looks: list[None] = []
        look = one.look

        def noted(_: ProcessRam) -> Residency:
            looks.append(None)
            return look()

        monkeypatch.setattr(ProcessRam, "look", noted)
        copies = PageAccess(one)
        assert looks == []
        assert np.count_nonzero(copies.present) + np.count_nonzero(copies.absent) == copies.pages
        assert len(looks) == 1


def test_pages_are_found_by_prefix() -> None:
    with guest() as pid, reader(pid) as one:
        copies = PageAccess(one, one.look())
        assert copies.starting_with(b"page %11d" % 4001).tolist() == [4001]
        assert copies.starting_with(b"page %10d" % 400).tolist() == [page for page in range(4000, 4010) if page % 3]
        assert copies.starting_with(b"PAGE_SIZE").tolist() == []


def test_copy_stops_and_detects_ended_process() -> None:
    stopping = False
    buffer = memoryview(bytearray(PAGES * PAGE_SIZE))
    with guest() as pid, reader(pid, stop=lambda: stopping) as one:
        copies = PageAccess(one, one.look())
        stopping = True
        with pytest.raises(Interrupted):
            copies.copy(np.arange(PAGES), buffer)
        stopping = False
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(GuestError):
            copies.copy(np.arange(PAGES), buffer)


@dataclass
class Noting:
    """An observer that records its calls, and copies pages while the guest is suspended."""

    log: list[str]
    pages: int = PAGES
    declined: str | None = None
    content: list[bytes | None] = field(default_factory=list)

    def prepare(self, copies: PageAccess) -> None:
        assert copies.pages == PAGES
        self.log.append("prepare")

    def expected_copies(self, written: NDArray[np.bool_] | None) -> int:
        del written
        return 0 if self.declined else self.pages

    def copy_running(self, copies: PageAccess) -> None:
        raise AssertionError(copies)

    def copy_written(self, copies: PageAccess, written: NDArray[np.bool_]) -> None:
        raise AssertionError(copies, written)

    @contextlib.contextmanager
    def while_suspended(self, copies: PageAccess, written: NDArray[np.bool_] | None) -> Iterator[None]:
        assert written is None
        if self.declined:
            yield
            return
        buffer = memoryview(bytearray(PAGES * PAGE_SIZE))
        self.content = beginnings(buffer, copies.copy(np.arange(PAGES), buffer))
        self.log.append("held")
        yield
        self.log.append("read")

    def decline(self, why: str) -> None:
        self.log.append("declined")
        self.declined = why


def captured(
    pid: int,
    directory: Path,
    mode: str,
    witness: Noting,
    pace: ThroughputModel | None = None,
    max_pause: float = 0.25,
    *,
    one_instant: bool = False,
) -> tuple[Capture, ScanState, float]:
    asked = 0.0

    @contextlib.contextmanager
    def pause(expected: float = 0.0, *, dumping: bool = False) -> Iterator[SuspendedDomain]:
        nonlocal asked
        asked = expected
        assert not dumping
        held = SuspendedDomain()
        witness.log.append("suspend")
        yield held
        witness.log.append("resume")

    source = GuestMemory(pid, (PAGES * PAGE_SIZE,), paused=False, vfio=False)
    control = GuestControl(pause, lambda _: None, directory)
    request = scan_request(mode, "process", max_pause, 0.5, one_instant=one_instant)
    kept = ScanState(0, pace or ThroughputModel())
    found = capture(source, control, Hashing(best_hasher(), 7, 1, lambda: False), request, kept, witness)
    return found, kept, asked


def test_observer_runs_during_the_pause(tmp_path: Path) -> None:
    with guest() as pid:
        log: list[str] = []
        witness = Noting(log)
        found, kept, _ = captured(pid, tmp_path, "auto", witness)
        assert log == ["prepare", "suspend", "held", "read", "resume"]
        assert witness.content == [b"page %11d" % page if page % 3 else None for page in range(PAGES)]
        assert found.mode == "snapshot"
        assert found.bytes_read == sum(page % 3 > 0 for page in range(PAGES)) * PAGE_SIZE  # copies are not included
        assert kept.throughput.copy_rate != ThroughputModel().copy_rate


@pytest.mark.parametrize("mode", ["sliced", "live"])
def test_observer_is_declined_without_instant(mode: str, tmp_path: Path) -> None:
    with guest() as pid:
        log: list[str] = []
        witness = Noting(log)
        captured(pid, tmp_path, mode, witness)
        assert set(log) <= {"declined", "suspend", "resume"}
        assert f"mode {mode}" in (witness.declined or "")


def test_slow_observer_is_declined_for_now(tmp_path: Path) -> None:
    with guest() as pid:
        log: list[str] = []
        witness = Noting(log)
        found, kept, _ = captured(pid, tmp_path, "auto", witness, ThroughputModel(copy_rate=1e6))
        assert log == ["prepare", "declined", "suspend", "resume"]
        assert kept.throughput.copy_rate > 1e6
        assert found.mode == "snapshot"
        assert "max_pause" in (witness.declined or "")


@pytest.mark.parametrize(
    "pace", [ThroughputModel(rate=1e6), ThroughputModel(copy_rate=1e6)], ids=["reading", "copying"]
)
def test_one_instant_respects_pause_limit(pace: ThroughputModel, tmp_path: Path) -> None:
    with guest() as pid:
        log: list[str] = []
        with pytest.raises(GuestError, match="use `--mode snapshot` to allow a longer pause") as caught:
            captured(pid, tmp_path, "auto", Noting(log), pace, one_instant=True)
        assert caught.value.reason is Reason.TOO_LONG
        assert "suspend" not in log


def test_expected_pause_includes_observer_copy(tmp_path: Path) -> None:
    with guest() as pid:
        witness = Noting([])
        slow = ThroughputModel(rate=1e6, copy_rate=PAGES * PAGE_SIZE / 100.0)
        _, _, asked = captured(pid, tmp_path, "snapshot", witness, slow)
        assert asked > 100.0
        assert witness.content
