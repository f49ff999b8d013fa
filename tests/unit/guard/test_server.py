"""The guard through its messages: reactions to a late, hung or ended scanner."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import pytest

from samepaged.drift.ledger import PauseLedger
from samepaged.errors import Reason
from samepaged.guard import resume, server
from samepaged.guard.journal import FileName, Journal
from samepaged.guard.resume_queue import ResumeQueue
from samepaged.guard.server import GuardServer
from samepaged.hypervisor.protocol import ControlState, RunState
from samepaged.ipc import Channel
from tests.support.hypervisor import FakeDomain, FakeHypervisor, error
from tests.support.waiting import wait_for
from tests.unit.guard.fakes import ENTRY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Seconds for which a test waits until something is so.
PATIENCE = 10.0
# A deadline that passes at once, and one that never does.
AT_ONCE, NEVER = 0.01, 1000.0
# Shorter than in production, and longer than the steps of a test.
IN_FLIGHT_SECONDS = 1.0


class Running:
    """A guard in a thread of its own, and the scanner's end of its channel."""

    def __init__(self, directory: Path) -> None:
        self.hypervisor = FakeHypervisor()
        self.journal = Journal(directory)
        self.journal.write(ENTRY)
        self.killed = 0
        self.scanner, other = Channel.pair()
        entries = ResumeQueue(lambda: [directory], self._left_open, connect=lambda _: self.hypervisor)
        self.end = Channel(other)
        self.guard = GuardServer(self.end, self.hypervisor, self.journal.path, 4_194_000, self._kill, entries)
        self.thread = threading.Thread(target=self.guard.run)
        self.thread.start()

    def _kill(self) -> None:
        self.killed += 1

    @staticmethod
    def _left_open(name: FileName) -> bool:
        return name.number is not None

    def arm(self, seconds: float = NEVER, *, dumping: bool = False) -> dict[str, object] | None:
        self.scanner.send(arm=1, entry=asdict(ENTRY), seconds=seconds, dumping=dumping)
        return self.scanner.receive(PATIENCE)

    def suspend(self) -> None:
        self.hypervisor.it.run_state = RunState.PAUSED
        self.scanner.send(suspended=1)

    def disarm(self) -> dict[str, object] | None:
        self.scanner.send(disarm=1)
        return self.scanner.receive(PATIENCE)

    @property
    def runs(self) -> bool:
        return self.hypervisor.it.run_state is RunState.RUNNING

    def scanner_ends(self) -> None:
        self.scanner.close()
        self.thread.join(2 * PATIENCE)
        assert not self.thread.is_alive()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setattr(resume, "IN_FLIGHT_SECONDS", IN_FLIGHT_SECONDS)
    monkeypatch.setattr(server, "DUMP_SECONDS", 0.1)
    one = Running(tmp_path)
    try:
        yield one
    finally:
        one.scanner_ends()
        one.end.close()
        one.journal.close()


def test_arming_needs_a_connection(running: Running) -> None:
    running.hypervisor.reachable = False
    assert running.arm() == {"refused": 1, "why": "libvirt is away", "remedy": None}
    running.hypervisor.reachable = True
    assert running.arm() == {"armed": 1}


def test_a_pause_in_time_is_the_scanners(running: Running) -> None:
    running.arm()
    running.suspend()
    running.hypervisor.it.run_state = RunState.RUNNING
    assert running.disarm() == {"disarmed": 1, "resumed": False}
    assert running.hypervisor.it.calls == []


def test_an_overdue_guest_is_resumed_and_told(running: Running) -> None:
    running.arm(AT_ONCE)
    running.suspend()
    wait_for(lambda: running.runs)
    assert running.disarm() == {"disarmed": 1, "resumed": True}


def test_a_suspension_after_the_deadline_is_ended(running: Running) -> None:
    """A scanner that stood still before its suspend call makes it when it goes on."""
    running.arm(AT_ONCE)
    wait_for(lambda: "state" in running.hypervisor.it.calls)
    running.hypervisor.it.run_state = RunState.PAUSED
    wait_for(lambda: running.runs)
    assert running.disarm() == {"disarmed": 1, "resumed": True}


def test_an_overdue_resume_is_tried_until_it_succeeds(running: Running) -> None:
    running.hypervisor.it.failures["resume"] = [error(Reason.IN_JOB)] * 3
    running.arm(AT_ONCE)
    running.suspend()
    wait_for(lambda: running.runs)


def test_a_scanner_that_hangs_in_a_dump_is_killed(running: Running) -> None:
    running.arm(AT_ONCE, dumping=True)
    running.suspend()
    wait_for(lambda: running.killed)
    assert not running.runs  # QEMU waits for its reader: it cannot be resumed before
    running.scanner.send(dump_ended=1)
    wait_for(lambda: running.runs)


def test_the_guest_of_a_dead_scanner_is_resumed(running: Running) -> None:
    running.arm()
    running.suspend()
    running.scanner_ends()
    assert running.runs
    assert not running.journal.path.exists()


def test_a_dump_that_cannot_be_ended_keeps_no_guest(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(server, "release", refuse)
    running.arm()
    running.suspend()
    running.scanner_ends()
    assert running.runs
    assert "cleanup after the scanner failed" in caplog.text


def test_a_suspend_call_of_a_dead_scanner_is_waited_for(running: Running) -> None:
    running.arm()
    late = threading.Timer(0.3, lambda: setattr(running.hypervisor.it, "run_state", RunState.PAUSED))
    late.start()
    running.scanner_ends()
    assert running.runs
    assert "resume" in running.hypervisor.it.calls


def test_the_pause_of_a_dead_scanner_is_charged(running: Running, tmp_path: Path) -> None:
    running.arm()
    running.suspend()
    time.sleep(0.3)  # the guard counts from the moment it reads the message
    running.scanner_ends()
    left = PauseLedger(tmp_path).account(ENTRY.uuid, 0.0005).remaining_seconds()
    assert 0 < 1.8 - left < 1.0
    assert 1.8 - left >= 0.2


def test_the_guest_of_a_lost_journal_is_resumed_too(running: Running) -> None:
    running.arm()
    running.suspend()
    running.journal.path.unlink()
    running.scanner_ends()
    assert running.runs


def test_a_fault_of_one_look_does_not_end_the_guard(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.hypervisor.it.failures["control"] = [ZeroDivisionError("a fault of ours")]
    running.arm(AT_ONCE)
    running.suspend()
    wait_for(lambda: running.runs)
    assert "guest check failed, retrying" in caplog.text


def test_an_unnamed_open_entry_is_worked_on_from_memory(running: Running) -> None:
    running.hypervisor.it.control_state = ControlState.OCCUPIED
    running.arm()
    running.scanner.send(left_open=1, path=None)
    running.scanner.send(arm=2, entry=asdict(ENTRY), seconds=NEVER, dumping=False)
    assert running.scanner.receive(PATIENCE) == {"armed": 2}
    running.hypervisor.it.run_state, running.hypervisor.it.control_state = RunState.PAUSED, ControlState.READY
    wait_for(lambda: running.runs)
    assert running.journal.path.exists()  # it is the scanner's


def leave_open(running: Running) -> tuple[FakeDomain, Path]:
    """A scanner leaves the entry of a guest open, as the monitor is busy."""
    domain = running.hypervisor.it
    domain.control_state = ControlState.OCCUPIED
    running.arm()
    path = running.journal.leave_open()
    assert path is not None
    running.scanner.send(left_open=1, path=str(path))
    return domain, path


def test_an_open_entry_does_not_hold_up_the_next_guest(running: Running) -> None:
    domain, path = leave_open(running)
    for number in (2, 3):
        running.scanner.send(arm=number, entry=asdict(replace(ENTRY, id=8)), seconds=NEVER, dumping=False)
        assert running.scanner.receive(PATIENCE) == {"armed": number}
        running.scanner.send(disarm=number)
        assert running.scanner.receive(PATIENCE) == {"disarmed": number, "resumed": False}
    assert path.exists()
    domain.run_state, domain.control_state = RunState.PAUSED, ControlState.READY
    wait_for(lambda: running.runs)


def test_an_open_entry_is_settled_after_the_scanners_end(running: Running) -> None:
    domain, path = leave_open(running)

    def go_on() -> None:
        domain.run_state, domain.control_state = RunState.PAUSED, ControlState.READY

    threading.Timer(0.5, go_on).start()
    running.scanner_ends()
    assert running.runs
    assert not path.exists()
