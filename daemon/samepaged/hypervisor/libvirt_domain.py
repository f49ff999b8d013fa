"""`Domain` over a virDomain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import libvirt
import libvirt_qemu

from samepaged.errors import GuestError, Reason
from samepaged.guest_id import GuestId
from samepaged.hypervisor.protocol import ControlState, RunState, ScanObstacle

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["LibvirtDomain"]

T = TypeVar("T")

# A healthy QEMU answers within a few milliseconds; a suspension also waits for block I/O.
SUSPEND_SECONDS: Final = 2.0
RESUME_SECONDS: Final = 2.0
PING_SECONDS: Final = 2.0
PAUSES_BY_SUSPEND: Final = frozenset({libvirt.VIR_DOMAIN_PAUSED_USER, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN})
# A paused guest is scanned in its paused state, but not while libvirt runs a job on it.
PAUSE_OBSTACLES: Final = {
    libvirt.VIR_DOMAIN_PAUSED_MIGRATION: ScanObstacle(Reason.IN_JOB, "is being migrated"),
    libvirt.VIR_DOMAIN_PAUSED_SAVE: ScanObstacle(Reason.IN_JOB, "is being saved"),
    libvirt.VIR_DOMAIN_PAUSED_DUMP: ScanObstacle(Reason.IN_JOB, "is being dumped"),
    libvirt.VIR_DOMAIN_PAUSED_SNAPSHOT: ScanObstacle(Reason.IN_JOB, "is being snapshotted"),
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY: ScanObstacle(Reason.IN_JOB, "is being migrated (post-copy)"),
    libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED: ScanObstacle(Reason.IN_JOB, "is in a post-copy migration that failed"),
    libvirt.VIR_DOMAIN_PAUSED_STARTING_UP: ScanObstacle(Reason.NOT_RUNNING, "is starting"),
    libvirt.VIR_DOMAIN_PAUSED_SHUTTING_DOWN: ScanObstacle(Reason.NOT_RUNNING, "is shutting down"),
}
STATE_OBSTACLES: Final = {
    libvirt.VIR_DOMAIN_PMSUSPENDED: ScanObstacle(Reason.PM_SUSPENDED, "is suspended by its own power management"),
    libvirt.VIR_DOMAIN_CRASHED: ScanObstacle(Reason.CRASHED, "has crashed"),
    libvirt.VIR_DOMAIN_SHUTDOWN: ScanObstacle(Reason.NOT_RUNNING, "is shutting down"),
}
NOT_RUNNING: Final = ScanObstacle(Reason.NOT_RUNNING, "is not running")


class Call(Protocol):
    """LibvirtHypervisor.call; its default timeout applies unless a call here passes another."""

    def __call__(self, what: str, function: Callable[[], T], seconds: float | None = ...) -> T:
        """As in LibvirtHypervisor."""


@dataclass(frozen=True, slots=True)
class LibvirtDomain:
    """A virDomain (`native`), the URI and the `call` of the LibvirtHypervisor that looked it up."""

    uri: str
    call: Call
    native: libvirt.virDomain

    @property
    def name(self) -> str:
        """As in Domain."""
        return self.native.name()

    @property
    def uuid(self) -> str:
        """As in Domain."""
        return self.native.UUIDString()

    @property
    def guest_id(self) -> GuestId:
        """As in Domain."""
        return GuestId(self.uri, self.uuid)

    @property
    def id(self) -> int:
        """As in Domain."""
        return self.native.ID()

    def state(self) -> RunState:
        """As in Domain."""
        state, reason = self._state()
        if state in {libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED}:
            return RunState.RUNNING
        if state != libvirt.VIR_DOMAIN_PAUSED:
            return RunState.OTHER
        return RunState.PAUSED if reason in PAUSES_BY_SUSPEND else RunState.PAUSED_OTHERWISE

    def scan_state(self) -> tuple[bool, ScanObstacle | None]:
        """As in Domain."""
        state, reason = self._state()
        if state == libvirt.VIR_DOMAIN_PAUSED:
            return True, PAUSE_OBSTACLES.get(reason)
        if state in {libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED}:
            return False, None
        return False, STATE_OBSTACLES.get(state, NOT_RUNNING)

    def _state(self) -> list[int]:
        return self.call(f"querying the state of domain {self.name!r}", self.native.state)

    def control(self) -> tuple[ControlState, float]:
        """As in Domain."""
        what = f"querying the control state of domain {self.name!r}"
        state, _, since = self.call(what, self.native.controlInfo)
        if state == libvirt.VIR_DOMAIN_CONTROL_OK:
            return ControlState.READY, 0.0
        if state == libvirt.VIR_DOMAIN_CONTROL_JOB:
            return ControlState.JOB, since / 1000
        # CONTROL_ERROR is the moment between taking the job and entering the monitor, or a monitor that broke.
        return ControlState.OCCUPIED, since / 1000

    def in_job(self) -> bool:
        """As in Domain."""
        job = self.call(f"querying the jobs of domain {self.name!r}", self.native.jobInfo)
        return job[0] != libvirt.VIR_DOMAIN_JOB_NONE

    def ping(self) -> None:
        """As in Domain: query-iothreads, which QEMU answers for every domain (qemuDomainGetStatsIOThread). Of the calls
        that ask it, the one for statistics takes only rights that scans need anyway.
        """
        what = f"pinging the monitor of domain {self.name!r}"

        def ask() -> None:
            self.native.connect().domainListGetStats([self.native], libvirt.VIR_DOMAIN_STATS_IOTHREAD, 0)

        try:
            self.call(what, ask, PING_SECONDS)
        except GuestError as error:
            if error.reason in {Reason.NO_ANSWER, Reason.IN_JOB, Reason.GONE, Reason.NOT_RUNNING}:
                raise
            # libvirt does not support the query: it answered without the monitor.

    def suspend(self) -> None:
        """As in Domain."""
        self.call(f"suspending domain {self.name!r}", self.native.suspend, SUSPEND_SECONDS)

    def resume(self) -> None:
        """As in Domain."""
        self.call(f"resuming domain {self.name!r}", self.native.resume, RESUME_SECONDS)

    def xml(self) -> str:
        """As in Domain."""
        return self.call(f"reading the XML of domain {self.name!r}", self.native.XMLDesc)

    def dump(self, path: Path) -> None:
        """As in Domain."""
        raw, memory_only = libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DUMP_MEMORY_ONLY
        self.call(
            f"dumping domain {self.name!r}",
            lambda: self.native.coreDumpWithFormat(str(path), raw, memory_only),
            None,  # the caller is the reader's own thread
        )

    def sync_time(self) -> None:
        """As in Domain."""
        self.call(
            f"setting the clock of domain {self.name!r}",
            lambda: self.native.setTime({"seconds": 0, "nseconds": 0}, libvirt.VIR_DOMAIN_TIME_SYNC),
            None,  # the caller is a thread of its own, with a connection of its own
        )

    def monitor_command(self, command: str) -> str:
        """As in Domain."""
        hmp = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
        return self.call(
            f"querying the monitor of domain {self.name!r}",
            lambda: libvirt_qemu.qemuMonitorCommand(self.native, command, hmp),
        )
