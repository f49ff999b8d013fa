"""The protocols `Hypervisor` and `Domain`: the interface to libvirt for other packages. Tests replace them by fakes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

from samepaged.errors import GuestError, HypervisorError, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from samepaged.guest_id import GuestId

__all__ = [
    "CallNotMadeError",
    "ControlState",
    "Domain",
    "Hypervisor",
    "ResumeCounter",
    "RunState",
    "ScanObstacle",
    "check_monitor",
]

# Another client's query occupies the monitor for milliseconds: it is polled before the guest is skipped.
OCCUPIED_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 0.02
# libvirtd sends the event of a resume within milliseconds of the call's return.
EVENT_SECONDS: Final = 0.05
# Events arrive in order: the event of samepaged's call follows another client's event soon.
NEXT_EVENT_SECONDS: Final = 0.002


class CallNotMadeError(HypervisorError):
    """No thread could be started, so the call was not made."""


class RunState(Enum):
    """Whether a domain runs, as far as samepaged distinguishes."""

    RUNNING = auto()
    PAUSED = auto()
    """Paused as virDomainSuspend pauses it (libvirt names the user, or forgot the reason in a restart)."""
    PAUSED_OTHERWISE = auto()
    """Paused by a migration, an I/O error, a dump or the like."""
    OTHER = auto()
    """It shuts down, has crashed, or the like."""


class ControlState(Enum):
    """State of libvirt's control interface to a domain (virDomainGetControlInfo)."""

    READY = auto()
    JOB = auto()
    """A call of an asynchronous job (migration, dump, backup) is at work on it."""
    OCCUPIED = auto()
    """Another call waits for the monitor's answer."""


@dataclass(frozen=True, slots=True)
class ScanObstacle:
    """A state of a domain that forbids a scan: the reason, and a predicate for people ("is being migrated")."""

    reason: Reason
    text: str


class ResumeCounter:
    """Counts of resumes: by libvirt's events, and by samepaged's calls. Events arrive late, but never before their
    resume. If the events exceed the calls by more than ever before, another client has resumed the domain.
    """

    def __init__(self) -> None:
        self._events: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._max_others: Counter[str] = Counter()
        self._event = threading.Condition()

    def count_event(self, uuid: str) -> None:
        """Libvirt reports a resume of the domain (in the event loop's thread)."""
        with self._event:
            self._events[uuid] += 1
            self._event.notify_all()

    def count_call(self, uuid: str) -> None:
        """Samepaged is about to resume the domain."""
        self._calls[uuid] += 1

    def uncount_call(self, uuid: str) -> None:
        """The resume call has failed: no event of it will come."""
        self._calls[uuid] -= 1

    def wait_for_event(self, uuid: str) -> None:
        """Wait, after our own resume, for its event, and with it for each event before it."""
        with self._event:
            self._event.wait_for(lambda: self._others(uuid) >= self._max_others[uuid], EVENT_SECONDS)
        time.sleep(NEXT_EVENT_SECONDS)  # if that was another client's event, samepaged's own follows

    def by_others(self, uuid: str) -> bool:
        """Whether another client has resumed the domain since this was last asked."""
        others = self._others(uuid)
        more = others > self._max_others[uuid]
        self._max_others[uuid] = max(others, self._max_others[uuid])
        return more

    def _others(self, uuid: str) -> int:
        return self._events[uuid] - self._calls[uuid]


class Domain(Protocol):
    """One domain. Each method raises GuestError, also with Reason.NO_ANSWER if the call does not return in time, and
    HypervisorError if the connection is lost. The properties make no call.
    """

    @property
    def name(self) -> str:
        """Name at the time of the lookup. libvirt renames only domains that do not run."""

    @property
    def uuid(self) -> str:
        """The domain's UUID."""

    @property
    def guest_id(self) -> GuestId:
        """Key of all state about the guest."""

    @property
    def id(self) -> int:
        """Libvirt's id, new with each start of the domain; -1 if it does not run."""

    def state(self) -> RunState:
        """Whether it runs. Does not wait for the monitor."""

    def scan_state(self) -> tuple[bool, ScanObstacle | None]:
        """Whether it is paused, and the obstacle to a scan in its state. Does not wait for the monitor."""

    def control(self) -> tuple[ControlState, float]:
        """The state of the control interface, and the seconds since it changed. Does not wait for the monitor."""

    def in_job(self) -> bool:
        """Whether an asynchronous job is at work on it (virDomainGetJobInfo). May wait for the domain's job."""

    def ping(self) -> None:
        """A question to the monitor that changes nothing: returns if QEMU answers and no job holds the domain."""

    def suspend(self) -> None:
        """Suspend it (virDomainSuspend)."""

    def resume(self) -> None:
        """Resume it (virDomainResume)."""

    def xml(self) -> str:
        """Its live XML (virDomainGetXMLDesc)."""

    def dump(self, path: Path) -> None:
        """Write an ELF core of its memory to `path`, in the calling thread and without a bound in time: a dump takes
        as long as its reader (virDomainCoreDumpWithFormat).
        """

    def sync_time(self) -> None:
        """Have its guest agent set the guest's clock by the virtual hardware's (virDomainSetTime), in the calling
        thread and without a bound in time: an agent may never answer.
        """

    def monitor_command(self, command: str) -> str:
        """The human monitor's answer to a command. Marks the domain as tainted, for as long as it runs
        (virDomainQemuMonitorCommand).
        """


class Hypervisor(Protocol):
    """A connection to a hypervisor, which may be lost and made again. Each call is bounded in time, unless its
    description excepts it, and no two threads call over one connection at a time.
    """

    @property
    def uri(self) -> str:
        """URI of the connection."""

    @property
    def alive(self) -> bool:
        """Whether the connection is open and was not seen to break."""

    @property
    def resumes(self) -> ResumeCounter:
        """Resumes of each domain, by libvirt's events."""

    @property
    def unanswered(self) -> int:
        """The number of calls that timed out and have not returned since."""

    def connect(self, seconds: float = ...) -> None:
        """Connect within `seconds`, unless connected. Raises HypervisorError."""

    def close(self) -> None:
        """Close the connection, if connected."""

    def versions(self) -> tuple[str, str]:
        """Versions of libvirt and QEMU, as "9.0.0". Raises GuestError, HypervisorError."""

    def may_change(self) -> bool:
        """Whether libvirt accepts calls over this connection that change something. Raises HypervisorError."""

    def running(self) -> Sequence[Domain]:
        """The domains that have a process now (running or paused), sorted by name. Raises GuestError,
        HypervisorError.
        """

    def by_uuid(self, uuid: str) -> Domain:
        """The domain with this UUID. Raises GuestError if there is none, HypervisorError."""

    def by_name(self, name: str) -> Domain:
        """The domain with this name or UUID. Raises GuestError if there is none, HypervisorError."""


def check_monitor(domain: Domain) -> None:
    """Raise GuestError if the domain's monitor is busy, or a job holds the domain: then it must not be suspended."""
    deadline = time.monotonic() + OCCUPIED_SECONDS
    while True:
        control, since = domain.control()
        if control is ControlState.READY and not domain.in_job():
            return
        if control is not ControlState.OCCUPIED:
            raise GuestError(Reason.IN_JOB, "is in a job (migration, backup, save or dump)", domain=domain.name)
        if since > OCCUPIED_SECONDS or time.monotonic() > deadline:
            raise GuestError(
                Reason.MONITOR_BUSY,
                f"is not suspended: its monitor has been busy for {since:.1f} s, so QEMU may hang",
                "check its log and its storage",
                domain=domain.name,
            )
        time.sleep(LOOK_SECONDS)
