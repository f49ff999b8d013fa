"""libvirt's domain behind the protocol that suspending and resuming use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import libvirt

from samepaged.errors import GuestError, Reason
from samepaged.hypervisor.protocol import ControlState, RunState

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LibvirtDomain"]

# A healthy QEMU answers within a few milliseconds; more is the time of block I/O that a suspension waits for.
SUSPEND_SECONDS: Final = 2.0
RESUME_SECONDS: Final = 2.0
PING_SECONDS: Final = 2.0
PAUSES_BY_SUSPEND: Final = frozenset({libvirt.VIR_DOMAIN_PAUSED_USER, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN})


@dataclass(frozen=True, slots=True)
class LibvirtDomain:
    """libvirt's domain `native`; `call` is Hypervisor.call of its connection."""

    call: Callable[..., Any]
    native: Any
    name: str

    @property
    def id(self) -> int:
        """As in Domain."""
        return int(self.native.ID())

    def state(self) -> RunState:
        """As in Domain."""
        state, reason = self.call(f"asking for the state of domain {self.name!r}", self.native.state)
        if state in {libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED}:
            return RunState.RUNNING
        if state != libvirt.VIR_DOMAIN_PAUSED:
            return RunState.OTHER
        return RunState.PAUSED if reason in PAUSES_BY_SUSPEND else RunState.PAUSED_OTHERWISE

    def control(self) -> tuple[ControlState, float]:
        """As in Domain."""
        what = f"asking for the control state of domain {self.name!r}"
        state, _, since = self.call(what, self.native.controlInfo)
        if state == libvirt.VIR_DOMAIN_CONTROL_OK:
            return ControlState.READY, 0.0
        if state == libvirt.VIR_DOMAIN_CONTROL_JOB:
            return ControlState.JOB, since / 1000
        # CONTROL_ERROR is the moment between taking the job and entering the monitor, or a monitor that broke.
        return ControlState.OCCUPIED, since / 1000

    def in_job(self) -> bool:
        """As in Domain."""
        job = self.call(f"asking for the jobs of domain {self.name!r}", self.native.jobInfo)
        return bool(job[0] != libvirt.VIR_DOMAIN_JOB_NONE)

    def ping(self) -> None:
        """As in Domain: query-iothreads, which QEMU answers for every domain (qemuDomainGetStatsIOThread). Of the calls
        that ask it, the one for statistics takes only rights that scans need anyway.
        """
        what = f"asking whether the monitor of domain {self.name!r} answers"

        def ask() -> None:
            self.native.connect().domainListGetStats([self.native], libvirt.VIR_DOMAIN_STATS_IOTHREAD, 0)

        try:
            self.call(what, ask, PING_SECONDS)
        except GuestError as error:
            if error.reason in {Reason.NO_ANSWER, Reason.IN_JOB, Reason.GONE, Reason.NOT_RUNNING}:
                raise
            # libvirt answered that it does not have the query: the question did not need the monitor.

    def suspend(self) -> None:
        """As in Domain."""
        self.call(f"suspending domain {self.name!r}", self.native.suspend, SUSPEND_SECONDS)

    def resume(self) -> None:
        """As in Domain."""
        self.call(f"resuming domain {self.name!r}", self.native.resume, RESUME_SECONDS)
