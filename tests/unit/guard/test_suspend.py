"""Suspending and resuming, by a domain and a guard that do as a test says."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.guard import suspend
from samepaged.guard.suspend import RESUME_SECONDS, LeftOpenError, Suspender
from samepaged.hypervisor import protocol
from samepaged.hypervisor.protocol import CallNotMadeError, ControlState, RunState
from tests.support.clock import Clock
from tests.support.hypervisor import UUID, FakeHypervisor, error
from tests.unit.guard.fakes import FakeGuard, guest

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PAUSE = 0.25


@dataclass
class Scene:
    """A guest about to be suspended. Time passes by sleeping alone."""

    clock: Clock = field(default_factory=Clock)
    hypervisor: FakeHypervisor = field(default_factory=FakeHypervisor)
    guard: FakeGuard = field(default_factory=FakeGuard)
    paused: bool = False

    def __post_init__(self) -> None:
        self.suspender = Suspender(
            self.hypervisor, guest(paused=self.paused), self.guard, MAX_PAUSE, give_up=lambda: False
        )

    def suspend(self, read: Callable[[], object] = lambda: None) -> None:
        with self.suspender():
            read()

    def fails(self, reason: Reason, read: Callable[[], object] = lambda: None) -> GuestError:
        with pytest.raises(GuestError) as caught:
            self.suspend(read)
        assert caught.value.reason is reason
        assert "web-1" in str(caught.value)
        assert "\n" not in str(caught.value)
        return caught.value


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    scene = Scene()

    class Time:
        time = monotonic = staticmethod(scene.clock)
        sleep = staticmethod(scene.clock.sleep)

    monkeypatch.setattr(suspend, "time", Time)
    monkeypatch.setattr(protocol, "time", Time)
    return scene


def test_a_pause_is_guarded_measured_and_ended(scene: Scene) -> None:
    states = []

    def read() -> None:
        states.append(scene.hypervisor.it.run_state)
        scene.clock.now += 0.1

    scene.suspend(read)
    assert states == [RunState.PAUSED]
    assert scene.hypervisor.it.run_state is RunState.RUNNING
    assert scene.guard.calls == ["arm", "suspended", "disarm"]
    assert scene.suspender.pauses == [pytest.approx(0.1)]
    assert not scene.suspender.failed


def test_the_guest_is_resumed_when_reading_fails(scene: Scene) -> None:
    def read() -> None:
        raise error(Reason.READ)

    with pytest.raises(GuestError) as caught:
        scene.suspend(read)
    assert caught.value.reason is Reason.READ
    assert scene.hypervisor.it.run_state is RunState.RUNNING
    assert scene.guard.calls[-1] == "disarm"
    assert not scene.suspender.failed


@pytest.mark.parametrize(
    ("control", "since", "reason"),
    [(ControlState.OCCUPIED, 60.0, Reason.MONITOR_BUSY), (ControlState.JOB, 60.0, Reason.IN_JOB)],
)
def test_a_busy_domain_is_skipped_before_the_guard(
    scene: Scene, control: ControlState, since: float, reason: Reason
) -> None:
    scene.hypervisor.it.control_state, scene.hypervisor.it.since = control, since
    scene.fails(reason)
    assert scene.guard.calls == []
    assert scene.clock.now == Clock().now  # at once
    assert "suspend" not in scene.hypervisor.it.calls


def test_a_job_without_a_call_under_way_prevents_the_suspension(scene: Scene) -> None:
    scene.hypervisor.it.job = True
    scene.fails(Reason.IN_JOB)
    assert scene.guard.calls == []


def test_a_short_query_of_another_client_is_waited_for(scene: Scene) -> None:
    domain = scene.hypervisor.it
    domain.control_state, domain.since = ControlState.OCCUPIED, 0.001

    def free() -> None:
        if domain.calls.count("control") > 3:
            domain.control_state = ControlState.READY

    domain.then["control"] = free
    scene.suspend()
    assert 0 < scene.clock.now - Clock().now < 0.2


def test_many_short_queries_end_in_a_skip(scene: Scene) -> None:
    scene.hypervisor.it.control_state, scene.hypervisor.it.since = ControlState.OCCUPIED, 0.001
    scene.fails(Reason.MONITOR_BUSY)
    assert scene.clock.now - Clock().now < 1


def test_a_qemu_that_does_not_answer_is_not_suspended(scene: Scene) -> None:
    scene.hypervisor.it.failures["ping"] = [error(Reason.NO_ANSWER)]
    scene.fails(Reason.MONITOR_BUSY)
    assert "suspend" not in scene.hypervisor.it.calls
    assert scene.guard.calls == []


def test_a_job_that_begins_after_arming_prevents_the_suspension(scene: Scene) -> None:
    domain = scene.hypervisor.it
    domain.then["ping"] = lambda: setattr(domain, "control_state", ControlState.JOB)
    scene.fails(Reason.IN_JOB)
    assert scene.guard.calls == ["arm", "disarm"]
    assert "suspend" not in domain.calls


def test_too_many_hung_calls_prevent_further_suspensions(scene: Scene) -> None:
    scene.hypervisor.unanswered = suspend.MAX_UNANSWERED_CALLS
    scene.fails(Reason.MONITOR_BUSY)
    assert scene.hypervisor.it.calls == []


def test_without_a_guard_nothing_is_suspended(scene: Scene) -> None:
    scene.guard.refusal = error(Reason.NO_GUARD)
    with pytest.raises(GuestError):
        scene.suspend()
    assert "suspend" not in scene.hypervisor.it.calls


def test_a_guest_that_another_client_paused_first_is_left(scene: Scene) -> None:
    domain = scene.hypervisor.it
    domain.then["ping"] = lambda: setattr(domain, "run_state", RunState.PAUSED)
    scene.fails(Reason.SUSPEND)
    assert domain.run_state is RunState.PAUSED
    assert "resume" not in domain.calls


def test_a_suspend_call_that_hangs_leaves_the_entry_open(scene: Scene) -> None:
    scene.hypervisor.it.failures["suspend"] = [error(Reason.NO_ANSWER)]
    failure = scene.fails(Reason.NO_ANSWER)
    assert isinstance(failure, LeftOpenError)
    assert "may still be queued" in str(failure)
    assert scene.guard.calls == ["arm", "leave_open"]
    assert scene.suspender.failed
    assert scene.suspender.pauses == []
    assert "resume" not in scene.hypervisor.it.calls  # it would be queued behind the suspend call


def test_a_lost_answer_to_a_suspend_call_leaves_the_entry_open(scene: Scene) -> None:
    scene.hypervisor.it.failures["suspend"] = [HypervisorError("the connection was lost")]
    assert isinstance(scene.fails(Reason.NO_ANSWER), LeftOpenError)
    assert scene.guard.calls[-1] == "leave_open"


def test_a_suspend_call_that_fails_half_way_is_undone(scene: Scene) -> None:
    domain = scene.hypervisor.it
    domain.failures["suspend"] = [error(Reason.LIBVIRT)]
    domain.then["suspend"] = lambda: setattr(domain, "run_state", RunState.PAUSED)
    with pytest.raises(GuestError) as caught:
        scene.suspend()
    assert caught.value.reason is Reason.LIBVIRT
    assert domain.run_state is RunState.RUNNING
    assert scene.guard.calls[-1] == "disarm"
    assert scene.suspender.failed


def test_a_refused_suspend_call_resumes_nothing(scene: Scene) -> None:
    scene.hypervisor.it.failures["suspend"] = [error(Reason.NO_PERMISSION)]
    with pytest.raises(GuestError):
        scene.suspend()
    assert "resume" not in scene.hypervisor.it.calls


def test_a_suspend_call_that_is_cut_off_leaves_the_entry_open(scene: Scene) -> None:
    scene.hypervisor.it.failures["suspend"] = [MemoryError()]
    assert isinstance(scene.fails(Reason.NO_ANSWER), LeftOpenError)
    assert scene.guard.calls[-1] == "leave_open"


def test_a_suspend_call_that_was_not_made_opens_no_entry(scene: Scene) -> None:
    scene.hypervisor.it.failures["suspend"] = [CallNotMadeError("no thread can be started")]
    with pytest.raises(CallNotMadeError):
        scene.suspend()
    assert scene.guard.calls[-1] == "disarm"


def test_a_pause_that_cannot_be_counted_hides_no_failure(scene: Scene) -> None:
    class Full:
        def check(self, expected: float) -> float:
            return 10.0

        def add(self, seconds: float) -> None:
            raise MemoryError

    scene.suspender.account = cast("Any", Full())
    scene.hypervisor.it.failures["resume"] = [error(Reason.NO_ANSWER)]
    assert isinstance(scene.fails(Reason.NO_ANSWER), LeftOpenError)
    assert scene.guard.calls[-1] == "leave_open"


@pytest.mark.parametrize("reason", [Reason.NO_ANSWER, Reason.LIBVIRT])
def test_a_suspend_call_that_may_have_worked_is_charged(scene: Scene, reason: Reason) -> None:
    charged: list[float] = []

    class Account:
        def check(self, expected: float) -> float:
            return 10.0

        def add(self, seconds: float) -> None:
            charged.append(seconds)

    scene.suspender.account = cast("Any", Account())
    scene.hypervisor.it.failures["suspend"] = [error(reason)]
    scene.hypervisor.it.then["suspend"] = lambda: scene.clock.sleep(2.0)
    with pytest.raises(GuestError):
        scene.suspend()
    assert charged == [pytest.approx(2.0)]
    assert scene.suspender.pauses == []


def test_a_scanner_that_stood_still_does_not_count_its_own_stall(scene: Scene) -> None:
    def read() -> None:
        scene.hypervisor.it.run_state = RunState.RUNNING  # the guard has resumed it
        scene.clock.now += 1200

    scene.guard.overdue = True
    scene.fails(Reason.OVERDUE, read)
    assert scene.suspender.pauses[0] < MAX_PAUSE + 3


def test_a_failed_resume_call_is_not_counted_as_ours(scene: Scene) -> None:
    """Otherwise as many resumes of another client would go unnoticed later."""
    scene.hypervisor.it.failures["resume"] = [error(Reason.IN_JOB)] * 3
    scene.suspend()
    scene.fails(Reason.RESUMED_BY_OTHERS, lambda: scene.hypervisor.resumes.count_event(UUID))


def test_a_resume_call_that_hangs_leaves_the_entry_open(scene: Scene) -> None:
    scene.hypervisor.it.failures["resume"] = [error(Reason.NO_ANSWER)]
    assert isinstance(scene.fails(Reason.NO_ANSWER), LeftOpenError)
    assert scene.guard.calls == ["arm", "suspended", "leave_open"]
    assert len(scene.suspender.pauses) == 1


def test_a_resume_is_tried_again_for_a_bounded_time(scene: Scene) -> None:
    scene.hypervisor.it.failures["resume"] = [error(Reason.IN_JOB)] * 3
    scene.suspend()
    assert scene.hypervisor.it.run_state is RunState.RUNNING
    scene.hypervisor.it.failures["resume"] = [error(Reason.IN_JOB)] * 1000
    before = scene.clock.now
    assert isinstance(scene.fails(Reason.NO_ANSWER), LeftOpenError)
    assert scene.clock.now - before <= RESUME_SECONDS


def test_while_libvirt_is_away_the_entry_is_left_open_soon(scene: Scene) -> None:
    def read() -> None:
        scene.hypervisor.reachable = False

    before = scene.clock.now
    assert isinstance(scene.fails(Reason.NO_ANSWER, read), LeftOpenError)
    assert scene.clock.now - before <= RESUME_SECONDS
    assert scene.guard.calls[-1] == "leave_open"


def test_a_guard_that_died_meanwhile_ends_the_pause(scene: Scene) -> None:
    scene.guard.died = error(Reason.NO_GUARD)
    with pytest.raises(GuestError) as caught:
        scene.suspend()
    assert caught.value.reason is Reason.NO_GUARD
    assert scene.hypervisor.it.run_state is RunState.RUNNING


def test_a_pause_that_the_guard_ended_is_void(scene: Scene) -> None:
    scene.guard.overdue = True
    scene.fails(Reason.OVERDUE)
    assert scene.suspender.failed


def test_a_scanner_gives_up_before_the_guard_acts(scene: Scene) -> None:
    def read() -> None:
        assert not scene.suspender.stop()
        scene.clock.now += MAX_PAUSE + suspend.LEAD_SECONDS + 0.01
        scene.suspender.stop()

    scene.fails(Reason.OVERDUE, read)
    assert scene.hypervisor.it.run_state is RunState.RUNNING


def test_a_guest_resumed_by_others_is_void(scene: Scene) -> None:
    def read() -> None:
        scene.hypervisor.it.run_state = RunState.RUNNING

    scene.fails(Reason.RESUMED_BY_OTHERS, read)


def test_a_guest_resumed_and_paused_by_others_is_void(scene: Scene) -> None:
    scene.fails(Reason.RESUMED_BY_OTHERS, lambda: scene.hypervisor.resumes.count_event(UUID))
    assert scene.hypervisor.it.run_state is RunState.RUNNING


def test_a_late_event_of_another_client_is_waited_for(scene: Scene) -> None:
    """Another client has resumed the guest and paused it again; its event comes after our own resume call."""
    resumes = scene.hypervisor.resumes

    def both() -> None:
        resumes.count_event(UUID)
        resumes.count_event(UUID)

    def late() -> None:
        threading.Timer(0.005, both).start()

    scene.suspend()  # with an event that is in time
    scene.hypervisor.it.event = late
    scene.fails(Reason.RESUMED_BY_OTHERS)


def test_a_guest_in_another_state_is_left_as_it_is(scene: Scene) -> None:
    def read() -> None:
        scene.hypervisor.it.run_state = RunState.PAUSED_OTHERWISE

    scene.fails(Reason.SUSPEND, read)
    assert "resume" not in scene.hypervisor.it.calls


def test_guard_is_told_of_dump_end(scene: Scene) -> None:
    with scene.suspender(1.0, dumping=True):
        pass
    assert scene.guard.calls == ["arm", "suspended", "dump_ended", "disarm"]


def test_a_guest_paused_by_others_is_not_touched() -> None:
    scene = Scene(paused=True)
    scene.hypervisor.it.run_state = RunState.PAUSED
    scene.suspend()
    assert scene.hypervisor.it.run_state is RunState.PAUSED
    assert scene.guard.calls == []

    def read() -> None:
        scene.hypervisor.it.run_state = RunState.RUNNING

    scene.fails(Reason.RESUMED_BY_OTHERS, read)


class Account:
    """A drift budget of so many seconds."""

    def __init__(self, left: float) -> None:
        self.left = left

    def check(self, expected: float) -> float:
        if expected > self.left:
            raise error(Reason.DRIFT_BUDGET)
        return self.left

    def add(self, seconds: float) -> None:
        self.left -= seconds


def budgeted(scene: Scene, left: float) -> Account:
    account = Account(left)
    scene.suspender.account = account  # type: ignore[assignment] # stands for the ledger's
    return account


def test_every_pause_is_put_to_the_guests_account(scene: Scene) -> None:
    account = budgeted(scene, 1.0)

    def read() -> None:
        scene.clock.now += 0.1

    def fail() -> None:
        scene.clock.now += 0.2
        raise error(Reason.READ)

    scene.suspend(read)
    with pytest.raises(GuestError):
        scene.suspend(fail)
    assert account.left == pytest.approx(0.7)


def test_a_pause_beyond_the_drift_budget_does_not_begin(scene: Scene) -> None:
    budgeted(scene, 0.1)
    with pytest.raises(GuestError) as caught, scene.suspender(0.2):
        pytest.fail("suspended all the same")
    assert caught.value.reason is Reason.DRIFT_BUDGET
    assert scene.guard.calls == []
    assert "suspend" not in scene.hypervisor.it.calls


def test_a_pause_ends_when_the_drift_budget_is_used_up(scene: Scene) -> None:
    account = budgeted(scene, 0.1)

    def read() -> None:
        assert not scene.suspender.stop()
        scene.clock.now += 0.11
        scene.suspender.stop()

    with pytest.raises(GuestError) as caught:
        scene.suspend(read)
    assert caught.value.reason is Reason.DRIFT_BUDGET
    assert scene.hypervisor.it.run_state is RunState.RUNNING
    assert scene.guard.calls[-1] == "disarm"
    assert account.left == pytest.approx(-0.01)
    assert not scene.suspender.failed
    assert not scene.suspender.stop()
