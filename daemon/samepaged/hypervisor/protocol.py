"""A domain and its hypervisor as suspending and resuming see them. Tests put fakes in their place."""

from __future__ import annotations

import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

from samepaged.errors import GuestError, Reason

if TYPE_CHECKING:
    from samepaged.hypervisor.resume_events import Resumes

__all__ = ["Control", "Domain", "Domains", "RunState", "check_monitor"]

# Another client's query occupies the monitor for milliseconds: it is looked at again before the guest is skipped.
OCCUPIED_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 0.02


class RunState(Enum):
    """Whether a domain runs, as far as samepaged distinguishes."""

    RUNNING = auto()
    PAUSED = auto()
    """Paused as virDomainSuspend pauses it (libvirt names the user, or forgot the reason in a restart)."""
    PAUSED_OTHERWISE = auto()
    """Paused by a migration, an I/O error, a dump or the like."""
    OTHER = auto()
    """It shuts down, has crashed, or the like."""


class Control(Enum):
    """What virDomainGetControlInfo says of libvirt's control interface to a domain."""

    READY = auto()
    JOB = auto()
    """A call of an asynchronous job (migration, dump, backup) is at work on it."""
    OCCUPIED = auto()
    """Another call waits for the monitor's answer."""


class Domain(Protocol):
    """One domain. Each method raises GuestError, also with Reason.NO_ANSWER if the call does not return in time, and
    HypervisorError if the connection is lost.
    """

    @property
    def id(self) -> int:
        """Libvirt's id, new with each start of the domain; -1 if it does not run."""

    def state(self) -> RunState:
        """Whether it runs. Does not wait for the monitor."""

    def control(self) -> tuple[Control, float]:
        """The state of the control interface, and the seconds since it changed. Does not wait for the monitor."""

    def in_job(self) -> bool:
        """Whether an asynchronous job is at work on it (virDomainGetJobInfo). May wait for the domain's job."""

    def ping(self) -> None:
        """A question to the monitor that changes nothing: returns if QEMU answers and no job holds the domain."""

    def suspend(self) -> None:
        """Suspend it (virDomainSuspend)."""

    def resume(self) -> None:
        """Resume it (virDomainResume)."""


class Domains(Protocol):
    """A connection to a hypervisor, as far as suspending and resuming need it."""

    @property
    def resumes(self) -> Resumes:
        """Resumes of each domain, by libvirt's events."""

    @property
    def unanswered(self) -> int:
        """The number of calls that were given up and have not returned since."""

    def connect(self, seconds: float = ...) -> None:
        """Connect if there is no connection. Raises HypervisorError."""

    def close(self) -> None:
        """Close the connection; harmless if there is none."""

    def domain(self, uuid: str, name: str) -> Domain:
        """The domain with this UUID; `name` is for messages. Raises GuestError, HypervisorError."""


def check_monitor(domain: Domain, name: str) -> None:
    """Raise GuestError if the domain's monitor is busy, or a job holds the domain: then it must not be suspended."""
    deadline = time.monotonic() + OCCUPIED_SECONDS
    while True:
        control, since = domain.control()
        if control is Control.READY and not domain.in_job():
            return
        if control is not Control.OCCUPIED:
            raise GuestError(Reason.IN_JOB, "is in a job (migration, backup, save or dump)", domain=name)
        if since > OCCUPIED_SECONDS or time.monotonic() > deadline:
            raise GuestError(
                Reason.MONITOR_BUSY,
                f"is not suspended: its monitor has been busy for {since:.1f} s, so QEMU may hang",
                "see what it waits for (its log, stuck storage)",
                domain=name,
            )
        time.sleep(LOOK_SECONDS)
