"""A fake hypervisor and its domains, behind the protocols of samepaged.hypervisor. Tests define their behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.guest_id import GuestId
from samepaged.hypervisor.protocol import ControlState, ResumeCounter, RunState, ScanObstacle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

URI = "qemu:///system"
UUID = "3f0c1e0a-0000-0000-0000-000000000000"
XML = "<domain><memory>1024</memory></domain>"


def error(reason: Reason) -> GuestError:
    return GuestError(reason, f"as the test says: {reason}")


@dataclass
class FakeDomain:
    """A domain. `failures` maps each method to the errors that its next calls raise, in order."""

    run_state: RunState = RunState.RUNNING
    control_state: ControlState = ControlState.READY
    since: float = 60.0
    job: bool = False
    id: int = 7
    name: str = "web-1"
    uuid: str = UUID
    obstacle: ScanObstacle | None = None
    answers: dict[str, str] = field(default_factory=dict)
    """The monitor's answer to each command."""
    calls: list[str] = field(default_factory=list)
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    event: Callable[[], None] = lambda: None
    """The event of a resume."""
    then: dict[str, Callable[[], None]] = field(default_factory=dict)
    """Called with a method of that name."""

    @property
    def guest_id(self) -> GuestId:
        return GuestId(URI, self.uuid)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self.then.get(name, lambda: None)()
        if self.failures.get(name):
            raise self.failures[name].pop(0)

    def state(self) -> RunState:
        self._call("state")
        return self.run_state

    def scan_state(self) -> tuple[bool, ScanObstacle | None]:
        self._call("scan_state")
        return self.run_state is not RunState.RUNNING, self.obstacle

    def control(self) -> tuple[ControlState, float]:
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

    def xml(self) -> str:
        self._call("xml")
        return XML

    def dump(self, path: Path) -> None:
        self._call("dump")

    def sync_time(self) -> None:
        self._call("sync_time")

    def monitor_command(self, command: str) -> str:
        self._call("monitor_command")
        return self.answers[command]


@dataclass
class FakeHypervisor:
    """A connection with these domains: one, unless the test passes others."""

    domains: list[FakeDomain] = field(default_factory=lambda: [FakeDomain()])
    reachable: bool = True
    unanswered: int = 0
    resumes: ResumeCounter = field(default_factory=ResumeCounter)
    uri: str = URI
    connections: int = 0
    """The number of connections that are open."""

    def __post_init__(self) -> None:
        for domain in self.domains:
            domain.event = partial(self.resumes.count_event, domain.uuid)

    @property
    def it(self) -> FakeDomain:
        """The first domain."""
        return self.domains[0]

    @property
    def alive(self) -> bool:
        return self.reachable

    def connect(self, seconds: float = 15.0) -> None:
        if not self.reachable:
            raise HypervisorError("libvirt is away")
        self.connections += 1

    def close(self) -> None:
        self.connections -= 1

    def versions(self) -> tuple[str, str]:
        return "9.0.0", "7.2.0"

    def may_change(self) -> bool:
        return True

    def running(self) -> list[FakeDomain]:
        return sorted(self.domains, key=lambda domain: domain.name)

    def by_uuid(self, uuid: str) -> FakeDomain:
        return self._first(lambda domain: domain.uuid == uuid)

    def by_name(self, name: str) -> FakeDomain:
        return self._first(lambda domain: name in {domain.name, domain.uuid})

    def _first(self, wanted: Callable[[FakeDomain], bool]) -> FakeDomain:
        found = next(filter(wanted, self.domains), None)
        if found is None:
            raise error(Reason.GONE)
        return found
