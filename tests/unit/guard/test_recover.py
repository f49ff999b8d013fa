"""`samepaged recover`, and the daemon's work on open entries beside its scans."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from samepaged.errors import OpenEntriesError, Reason
from samepaged.guard import recover as module
from samepaged.guard import resume, resume_queue
from samepaged.guard.journal import Journal
from samepaged.guard.recover import Recovery, recover
from samepaged.hypervisor.protocol import ControlState, RunState
from samepaged.procfs import start_time
from tests.support.hypervisor import UUID, FakeHypervisor, error
from tests.support.waiting import wait_for
from tests.unit.guard.fakes import ENTRY, open_entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from samepaged.guard.resume_queue import PendingEntry, ResolvedEntry


@pytest.fixture
def hypervisor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeHypervisor:
    """In the place of each connection to libvirt; only one directory has journals."""
    one = FakeHypervisor()
    monkeypatch.setattr(resume_queue, "LibvirtHypervisor", lambda *_, **__: one)
    monkeypatch.setattr(resume, "IN_FLIGHT_SECONDS", 0.2)
    monkeypatch.setattr(module, "candidate_directories", lambda configured: [configured])
    return one


def step_until_gone(step: Callable[[], object], path: Path) -> None:
    def gone() -> bool:
        step()
        return not path.exists()

    wait_for(gone, every=0)


def test_without_an_entry_libvirt_is_not_asked(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    assert recover(tmp_path, lambda: False) == []
    assert hypervisor.it.calls == []


def test_recover_resumes_and_removes_the_file(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    found = open_entry(tmp_path)
    hypervisor.it.run_state = RunState.PAUSED
    assert recover(tmp_path, lambda: False) == []
    assert hypervisor.it.run_state is RunState.RUNNING
    assert not found.path.exists()


def test_recover_that_gives_up_leaves_the_entry(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    found = open_entry(tmp_path)
    hypervisor.it.control_state = ControlState.OCCUPIED
    looks = iter((False, False, True))
    (line,) = recover(tmp_path, lambda: next(looks, True))
    assert "'web-1'" in line
    assert "may still be queued in libvirt" in line
    assert found.path.exists()


def test_recover_without_waiting_looks_once(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    open_entry(tmp_path)
    hypervisor.it.run_state = RunState.PAUSED
    assert recover(tmp_path, lambda: True) == []
    assert hypervisor.it.run_state is RunState.RUNNING


def test_one_unsettled_guest_does_not_hold_up_another(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    """The first entry cannot be understood; the second is settled all the same."""
    (tmp_path / "suspended-4193000-1").write_text("[]\n")
    found = open_entry(tmp_path)
    hypervisor.it.run_state = RunState.PAUSED
    (line,) = recover(tmp_path, lambda: False)
    assert "suspended-4193000-1" in line
    assert not found.path.exists()


def test_undeletable_file_is_reported_once(
    tmp_path: Path, hypervisor: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_entry(tmp_path)
    hypervisor.it.run_state = RunState.PAUSED

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("samepaged.guard.journal.OpenEntry.clear", refuse)
    (line,) = recover(tmp_path, lambda: False)
    assert "cannot be removed" in line
    assert hypervisor.it.calls.count("resume") == 1


def test_the_daemon_works_on_entries_of_dead_and_own(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    shown: list[tuple[PendingEntry, ...]] = []
    settled: list[ResolvedEntry] = []
    recovery = Recovery(tmp_path, shown.append, settled.append)
    journal = Journal(tmp_path)
    journal.write(ENTRY)
    assert not recovery.has_guest(UUID)  # the current suspension is the scanner's and the guard's
    left = journal.leave_open()
    assert left is not None
    assert recovery.has_guest(UUID)
    hypervisor.it.control_state = ControlState.OCCUPIED
    recovery.start()
    try:
        assert [one.open_entry.entry.name for one in recovery.pending] == ["web-1"]
        assert shown[-1][0].open_entry.entry.uuid == UUID
        hypervisor.it.run_state, hypervisor.it.control_state = RunState.PAUSED, ControlState.READY
        wait_for(lambda: not recovery.pending, 20)
    finally:
        recovery.close(1)
    assert hypervisor.it.run_state is RunState.RUNNING
    assert [one.open_entry.path for one in settled] == [left]
    assert not left.exists()
    assert shown[-1] == ()


def test_an_end_with_an_open_entry_says_so(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    recovery = Recovery(tmp_path)
    recovery.start()
    journal = Journal(tmp_path)
    journal.write(ENTRY)
    journal.leave_open()
    hypervisor.it.control_state = ControlState.OCCUPIED
    with pytest.raises(OpenEntriesError, match="samepaged recover") as caught:
        recovery.close(0.2)
    assert caught.value.exit_status == 1


def test_without_a_thread_the_loop_does_the_work(
    tmp_path: Path, hypervisor: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    recovery = Recovery(tmp_path)
    recovery.start()
    found = open_entry(tmp_path)
    hypervisor.it.run_state = RunState.PAUSED
    step_until_gone(recovery.step_without_thread, found.path)
    assert hypervisor.it.run_state is RunState.RUNNING
    recovery.close(0)


def test_an_open_entry_of_a_living_process_is_told(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    parent = os.getppid()
    path = tmp_path / f"suspended-{parent}-{start_time(parent)}-1"
    path.write_bytes(ENTRY.line())
    (line,) = recover(tmp_path, lambda: False)
    assert f"process {parent}" in line
    assert path.exists()
    assert hypervisor.it.calls == []


def test_entries_of_living_processes_are_theirs(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    hypervisor.it.run_state = RunState.PAUSED
    parent = os.getppid()
    path = tmp_path / f"suspended-{parent}-{start_time(parent)}"
    path.write_bytes(ENTRY.line())
    assert recover(tmp_path, lambda: False) == []
    assert path.exists()
    assert hypervisor.it.run_state is RunState.PAUSED


def test_a_later_directory_is_worked_on_as_well(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for directory in (first, second):
        directory.mkdir()
    recovery = Recovery(first)
    recovery.add_directory(second)
    open_entry(second, replace(ENTRY, name="web-2"))
    assert recovery.has_guest(UUID)


def test_a_fault_of_one_look_does_not_end_the_work(
    tmp_path: Path, hypervisor: FakeHypervisor, caplog: pytest.LogCaptureFixture
) -> None:
    found = open_entry(tmp_path)
    hypervisor.it.run_state = RunState.PAUSED
    hypervisor.it.failures["control"] = [error(Reason.INTERNAL), ZeroDivisionError("a fault of ours")]
    recovery = Recovery(tmp_path)
    step_until_gone(recovery.step, found.path)
    assert hypervisor.it.run_state is RunState.RUNNING
    assert "recovery step failed, retrying" in caplog.text
