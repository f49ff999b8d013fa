"""Conditions under which an open entry is settled, and the treatment of its guest until then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.errors import HypervisorError, Reason
from samepaged.guard.resume import (
    BEHIND_JOB_SECONDS,
    IN_FLIGHT_SECONDS,
    TRANSIENT_REASONS,
    UNANSWERED_SECONDS,
    ResumeOutcome,
    ResumeTask,
)
from samepaged.hypervisor.protocol import ControlState, RunState
from tests.support.clock import Clock
from tests.support.hypervisor import FakeHypervisor, error
from tests.unit.guard.fakes import ENTRY, open_entry

if TYPE_CHECKING:
    from pathlib import Path


class Watched:
    """The work on one entry, and the time that it takes."""

    def __init__(self, directory: Path, hypervisor: FakeHypervisor, *, in_flight: bool = True) -> None:
        self.clock = Clock()
        self.hypervisor = hypervisor
        self.settling = ResumeTask(open_entry(directory), hypervisor, in_flight, self.clock)

    def look_for(self, seconds: float) -> ResumeOutcome | None:
        """Look whenever it is due, for so long at most."""
        end = self.clock.now + seconds
        while self.clock.now <= end:
            outcome = self.settling.poll()
            if outcome is not None:
                return outcome
            assert self.settling.due_time > self.clock.now
            self.clock.now = self.settling.due_time
        return None


@pytest.fixture
def hypervisor() -> FakeHypervisor:
    return FakeHypervisor()


def test_a_suspended_guest_is_resumed_at_once(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    hypervisor.it.run_state = RunState.PAUSED
    assert Watched(tmp_path, hypervisor).settling.poll() is ResumeOutcome.RESUMED
    assert hypervisor.it.run_state is RunState.RUNNING


def test_a_running_guest_is_watched_for_a_late_suspend(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    watched = Watched(tmp_path, hypervisor)
    assert watched.look_for(IN_FLIGHT_SECONDS - 0.5) is None
    hypervisor.it.run_state = RunState.PAUSED  # the call arrives
    assert watched.look_for(1) is ResumeOutcome.RESUMED
    assert hypervisor.it.run_state is RunState.RUNNING


def test_a_running_guest_with_a_free_monitor_is_settled(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    watched = Watched(tmp_path, hypervisor)
    assert watched.look_for(IN_FLIGHT_SECONDS + 1) is ResumeOutcome.RUNNING
    # Only after QEMU has answered: libvirt's workers have then begun each earlier call.
    assert "ping" in hypervisor.it.calls
    assert "resume" not in hypervisor.it.calls


def test_a_returned_suspend_call_needs_no_watching(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    assert Watched(tmp_path, hypervisor, in_flight=False).settling.poll() is ResumeOutcome.RUNNING


@pytest.mark.parametrize("hang", [1.0, 60.0, 600.0])
def test_an_entry_stays_open_while_the_monitor_is_busy(tmp_path: Path, hypervisor: FakeHypervisor, hang: float) -> None:
    hypervisor.it.control_state = ControlState.OCCUPIED
    watched = Watched(tmp_path, hypervisor)
    assert watched.look_for(hang) is None
    assert "queued" in watched.settling.progress
    # No further call is queued behind the hang: these two do not wait for QEMU.
    assert set(hypervisor.it.calls) == {"control", "state"}
    hypervisor.it.control_state, hypervisor.it.run_state = ControlState.READY, RunState.PAUSED
    assert watched.look_for(2 * IN_FLIGHT_SECONDS) is ResumeOutcome.RESUMED


def test_after_a_hang_a_second_suspend_is_undone_as_well(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    """Two calls waited: that of another client was first, and ours is carried out after the resume."""
    hypervisor.it.control_state = ControlState.OCCUPIED
    watched = Watched(tmp_path, hypervisor)
    watched.look_for(10)
    hypervisor.it.control_state, hypervisor.it.run_state = ControlState.READY, RunState.PAUSED
    assert watched.look_for(1) is None
    assert watched.settling.resumed
    hypervisor.it.run_state = RunState.PAUSED
    assert watched.look_for(2 * IN_FLIGHT_SECONDS) is ResumeOutcome.RESUMED
    assert hypervisor.it.run_state is RunState.RUNNING
    assert hypervisor.it.calls.count("resume") == 2


def test_a_hang_during_the_watch_begins_it_again(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    watched = Watched(tmp_path, hypervisor)
    assert watched.look_for(IN_FLIGHT_SECONDS - 0.5) is None
    hypervisor.it.control_state = ControlState.OCCUPIED
    assert watched.look_for(1) is None
    hypervisor.it.control_state = ControlState.READY
    assert watched.look_for(IN_FLIGHT_SECONDS - 0.5) is None
    assert watched.look_for(1) is ResumeOutcome.RUNNING


def test_a_ping_without_an_answer_settles_nothing(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    hypervisor.it.failures["ping"] = [error(Reason.NO_ANSWER)] * 3
    watched = Watched(tmp_path, hypervisor)
    assert watched.look_for(IN_FLIGHT_SECONDS) is None
    assert watched.look_for(2 * IN_FLIGHT_SECONDS) is ResumeOutcome.RUNNING


@pytest.mark.parametrize("control", [ControlState.JOB, ControlState.READY])
def test_behind_a_long_job_no_call_waits_for_ever(
    tmp_path: Path, hypervisor: FakeHypervisor, control: ControlState
) -> None:
    hypervisor.it.control_state, hypervisor.it.job = control, True
    watched = Watched(tmp_path, hypervisor)
    assert watched.look_for(BEHIND_JOB_SECONDS - 1) is None
    assert watched.look_for(2) is ResumeOutcome.RUNNING


@pytest.mark.parametrize("reason", sorted(TRANSIENT_REASONS))
def test_a_failed_resume_is_tried_again(tmp_path: Path, hypervisor: FakeHypervisor, reason: Reason) -> None:
    hypervisor.it.run_state = RunState.PAUSED
    hypervisor.it.failures["resume"] = [error(reason)] * 5
    assert Watched(tmp_path, hypervisor).look_for(30) is ResumeOutcome.RESUMED
    assert hypervisor.it.run_state is RunState.RUNNING


def test_guest_resumed_by_another_client_is_resolved(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    def other() -> None:
        hypervisor.it.run_state = RunState.RUNNING

    hypervisor.it.run_state = RunState.PAUSED
    hypervisor.it.failures["resume"] = [error(Reason.NOT_RUNNING)]
    hypervisor.it.then["resume"] = other
    assert Watched(tmp_path, hypervisor).look_for(20) is ResumeOutcome.RUNNING


def test_while_libvirt_is_away_the_entry_stays_open(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    hypervisor.it.run_state, hypervisor.reachable = RunState.PAUSED, False
    watched = Watched(tmp_path, hypervisor)
    assert watched.look_for(300) is None
    assert "libvirt is away" in watched.settling.progress
    hypervisor.reachable = True
    assert watched.look_for(20) is ResumeOutcome.RESUMED


def test_a_guest_that_is_gone_is_not_ours(tmp_path: Path) -> None:
    assert Watched(tmp_path, FakeHypervisor([])).settling.poll() is ResumeOutcome.NOT_OURS


def test_another_life_of_the_domain_is_not_ours(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    hypervisor.it.run_state, hypervisor.it.id = RunState.PAUSED, ENTRY.id + 1
    assert Watched(tmp_path, hypervisor).settling.poll() is ResumeOutcome.NOT_OURS
    assert hypervisor.it.run_state is RunState.PAUSED


def test_a_pause_for_another_reason_is_not_ours(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    hypervisor.it.run_state = RunState.PAUSED_OTHERWISE
    assert Watched(tmp_path, hypervisor, in_flight=False).settling.poll() is ResumeOutcome.NOT_OURS
    assert Watched(tmp_path, hypervisor).look_for(2 * IN_FLIGHT_SECONDS) is ResumeOutcome.NOT_OURS
    assert "resume" not in hypervisor.it.calls


def test_a_guest_that_ended_is_not_ours(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    hypervisor.it.run_state = RunState.OTHER
    assert Watched(tmp_path, hypervisor).settling.poll() is ResumeOutcome.NOT_OURS


def test_a_suspend_call_behind_a_snapshot_is_undone(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    """libvirt pauses the guest for the snapshot and resumes it; then the suspend call gets the domain's job."""
    domain = hypervisor.it
    domain.run_state, domain.job = RunState.PAUSED_OTHERWISE, True
    watched = Watched(tmp_path, hypervisor)
    assert watched.look_for(20) is None
    domain.run_state, domain.job = RunState.RUNNING, False
    assert watched.look_for(0.5) is None
    domain.run_state = RunState.PAUSED
    assert watched.look_for(2 * IN_FLIGHT_SECONDS) is ResumeOutcome.RESUMED
    assert domain.run_state is RunState.RUNNING


def test_a_hang_within_a_job_settles_nothing(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    """Our suspend call hangs in the monitor, and the control interface names the job around it."""
    domain = hypervisor.it
    domain.control_state = ControlState.JOB

    def hang() -> None:
        hypervisor.unanswered = 1
        domain.failures["ping"] = [error(Reason.NO_ANSWER)]

    domain.then["ping"] = hang
    watched = Watched(tmp_path, hypervisor)
    assert watched.look_for(10 * BEHIND_JOB_SECONDS) is None
    assert domain.calls.count("ping") <= 10 * BEHIND_JOB_SECONDS / UNANSWERED_SECONDS + 1


@pytest.mark.parametrize("call", ["resume", "ping", "in_job"])
def test_calls_without_an_answer_do_not_pile_up(tmp_path: Path, hypervisor: FakeHypervisor, call: str) -> None:
    domain = hypervisor.it
    domain.run_state = RunState.PAUSED if call == "resume" else RunState.RUNNING

    def hang() -> None:
        hypervisor.unanswered += 1
        domain.failures[call] = [error(Reason.NO_ANSWER)]

    domain.then[call] = hang
    watched = Watched(tmp_path, hypervisor)
    assert watched.look_for(300) is None
    assert domain.calls.count(call) <= 300 / UNANSWERED_SECONDS + 1


def test_short_queries_of_other_clients_disturb_nothing(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    domain = hypervisor.it
    domain.since = 0.003

    def query() -> None:
        number = domain.calls.count("control")
        domain.control_state = ControlState.OCCUPIED if number % 2 else ControlState.READY

    domain.then["control"] = query
    assert Watched(tmp_path, hypervisor).look_for(2 * IN_FLIGHT_SECONDS) is ResumeOutcome.RUNNING


def test_another_uri_that_does_not_know_the_domain_settles_nothing(tmp_path: Path) -> None:
    settling = ResumeTask(open_entry(tmp_path), FakeHypervisor([]), clock=Clock(), other_uri=True)
    assert settling.poll() is None
    assert ENTRY.uri in settling.progress


def test_a_lasting_failure_is_logged_once(
    tmp_path: Path, hypervisor: FakeHypervisor, caplog: pytest.LogCaptureFixture
) -> None:
    hypervisor.it.run_state = RunState.PAUSED
    hypervisor.it.failures["resume"] = [error(Reason.LIBVIRT)] * 20
    assert Watched(tmp_path, hypervisor).look_for(120) is ResumeOutcome.RESUMED
    assert len(caplog.records) == 1


def test_an_entry_settled_by_another_process_is_left_alone(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    hypervisor.it.run_state = RunState.PAUSED
    watched = Watched(tmp_path, hypervisor)
    watched.settling.open_entry.clear()
    assert watched.settling.poll() is ResumeOutcome.RESOLVED_ELSEWHERE
    assert "resume" not in hypervisor.it.calls


def test_the_time_seen_paused_is_added_up(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    hypervisor.it.run_state = RunState.PAUSED
    hypervisor.it.failures["resume"] = [error(Reason.IN_JOB)] * 12
    watched = Watched(tmp_path, hypervisor)
    began = watched.clock.now
    assert watched.look_for(60) is ResumeOutcome.RESUMED
    resumed_at = began + watched.settling.paused_seconds
    assert 5 < watched.settling.paused_seconds <= watched.clock.now - began
    assert resumed_at <= watched.clock.now


def test_a_hang_while_suspended_counts_as_a_pause(tmp_path: Path, hypervisor: FakeHypervisor) -> None:
    domain = hypervisor.it
    domain.run_state, domain.control_state = RunState.PAUSED, ControlState.OCCUPIED
    watched = Watched(tmp_path, hypervisor)
    watched.look_for(120)
    domain.run_state, domain.control_state = RunState.RUNNING, ControlState.READY  # the queued resume call
    assert watched.look_for(20) is ResumeOutcome.RUNNING
    assert 118 < watched.settling.paused_seconds < 122


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["hang", "go on", "suspend call", "libvirt away", "libvirt back", "resume fails", "time"]),
        st.floats(0.01, 8.0),
    ),
    max_size=30,
)


@given(EVENTS)
def test_a_settled_guest_runs_and_stays_running(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, float]]
) -> None:
    """Whatever happens: an entry with one queued suspend call is settled only after that was carried out and undone."""
    hypervisor = FakeHypervisor()
    domain = hypervisor.it
    domain.control_state = ControlState.OCCUPIED  # the call of the entry is under way
    watched = Watched(tmp_path_factory.mktemp("journal"), hypervisor)
    queued = True

    def answer() -> None:
        nonlocal queued
        domain.control_state = ControlState.READY
        if queued:
            queued, domain.run_state = False, RunState.PAUSED

    outcome = None
    for event, seconds in events:
        match event:
            case "hang":
                domain.control_state = ControlState.OCCUPIED
            case "go on":
                answer()
            case "libvirt away":
                hypervisor.reachable = False
            case "libvirt back":
                hypervisor.reachable = True
            case "resume fails":
                domain.failures.setdefault("resume", []).append(HypervisorError("lost"))
        outcome = outcome or watched.look_for(seconds)
        assert outcome is None or not queued
    hypervisor.reachable = True
    answer()
    outcome = outcome or watched.look_for(120)
    assert outcome is not None
    assert domain.run_state is RunState.RUNNING
