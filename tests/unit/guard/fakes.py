"""A hypervisor, its domain, a guard and a clock that do as a test says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.guard.journal import Entry, OpenEntry
from samepaged.hypervisor.guest import Guest
from samepaged.hypervisor.protocol import Control, RunState
from samepaged.hypervisor.qemu_process import QemuProcess
from samepaged.hypervisor.resume_events import Resumes
from samepaged.procfs import boot_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UUID = "3f0c1e0a-0000-0000-0000-000000000000"
ENTRY = Entry("qemu:///system", UUID, 7, "web-1", boot_id())


@dataclass
class Clock:
    """Monotonic seconds that pass when a test says so; sleeping passes them, too."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def error(reason: Reason) -> GuestError:
    return GuestError(reason, f"as the test says: {reason}")


@dataclass
class FakeDomain:
    """A domain; `failures` has for each method the errors that its next calls raise, in order."""

    run_state: RunState = RunState.RUNNING
    control_state: Control = Control.READY
    since: float = 60.0
    job: bool = False
    id: int = 7
    calls: list[str] = field(default_factory=list)
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    event: Callable[[], None] = lambda: None
    """The event of a resume."""
    then: dict[str, Callable[[], None]] = field(default_factory=dict)
    """What else happens when a method is called."""

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.then.get(name, lambda: None)()
        if self.failures.get(name):
            raise self.failures[name].pop(0)

    def state(self) -> RunState:
        self._call("state")
        return self.run_state

    def control(self) -> tuple[Control, float]:
        self._call("control")
        return self.control_state, self.since

    def in_job(self) -> bool:
        self._call("in_job")
        return self.job

    def ping(self) -> None:
        self._call("ping")

    def suspend(self) -> None:
        self._call("suspend")
        self.run_state = RunState.PAUSED

    def resume(self) -> None:
        self._call("resume")
        self.run_state = RunState.RUNNING
        self.event()


@dataclass
class FakeHypervisor:
    """A connection with one domain, or with none."""

    only: FakeDomain | None = field(default_factory=FakeDomain)
    reachable: bool = True
    unanswered: int = 0
    resumes: Resumes = field(default_factory=Resumes)

    def __post_init__(self) -> None:
        if self.only is not None:
            self.only.event = lambda: self.resumes.seen(UUID)

    @property
    def it(self) -> FakeDomain:
        assert self.only is not None
        return self.only

    def connect(self, seconds: float = 15.0) -> None:
        if not self.reachable:
            raise HypervisorError("libvirt is away")

    def close(self) -> None:
        pass

    def domain(self, uuid: str, name: str) -> FakeDomain:
        if self.only is None:
            raise error(Reason.GONE)
        return self.only


@dataclass
class FakeGuard:
    """Notes what it is asked; `overdue` says that it resumed the guest."""

    calls: list[str] = field(default_factory=list)
    overdue: bool = False
    refusal: Exception | None = None
    died: Exception | None = None

    def arm(self, name: str, uuid: str, number: int, seconds: float, *, dumping: bool) -> None:
        self.calls.append("arm")
        if self.refusal is not None:
            raise self.refusal

    def suspended(self, name: str) -> None:
        self.calls.append("suspended")
        if self.died is not None:
            raise self.died

    def dump_ended(self) -> None:
        self.calls.append("dump_ended")

    def disarm(self) -> bool:
        self.calls.append("disarm")
        return self.overdue

    def leave_open(self) -> None:
        self.calls.append("leave_open")


def guest(*, paused: bool = False) -> Guest:
    return Guest("web-1", UUID, 7, paused, QemuProcess(1, 1), (1 << 20,), vfio=False)


def open_entry(directory: Path, entry: Entry = ENTRY) -> OpenEntry:
    path = directory / "suspended-4194000-1"
    path.write_bytes(entry.line())
    return OpenEntry(path, entry, 0.0)
