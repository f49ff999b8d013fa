"""Resuming a guest that a process of samepaged suspended and cannot resume itself any more."""

from __future__ import annotations

import logging
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import libvirt

from samepaged.errors import GuestError, HypervisorError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.guard.journal import Entry
    from samepaged.hypervisor.connection import Hypervisor

__all__ = ["OUR_PAUSES", "PASSING", "ResumeOutcome", "attempt", "rescue"]

log = logging.getLogger(__name__)

# libvirt's own reason for a pause by virDomainSuspend, and what it says where it lost the reason in a restart.
OUR_PAUSES: Final = frozenset({libvirt.VIR_DOMAIN_PAUSED_USER, libvirt.VIR_DOMAIN_PAUSED_UNKNOWN})
# Failures of a resume that may pass. The others say that the guest is not ours to resume any more.
PASSING: Final = frozenset({Reason.LIBVIRT, Reason.IN_JOB, Reason.NO_PERMISSION, Reason.INTERNAL})

# Seconds for which a guest that runs is watched, where the call that suspends it may still be on its way: libvirt
# carries out what a client asked before it died. While a job holds the domain, calls wait for it, up to half a minute.
IN_FLIGHT: Final = 5.0
IN_FLIGHT_BEHIND_JOB: Final = 40.0
# Seconds between two looks at a guest, and the first and longest wait after a failure.
LOOK: Final = 0.03
RETRY: Final = (0.05, 1.0)


class ResumeOutcome(Enum):
    """What an attempt to resume found."""

    SUSPENDED = auto()
    """The guest was suspended, and has been resumed."""
    RUNNING = auto()
    """It runs."""
    NOT_OURS = auto()
    """It is gone, has been started anew, or went into a state that is not a pause of ours: it stays so."""


def attempt(hypervisor: Hypervisor, entry: Entry) -> ResumeOutcome:
    """Resume the guest if it is suspended as samepaged suspends. Raises HypervisorError, and GuestError where that
    failed for a reason that may pass.
    """
    hypervisor.connect()
    try:
        domain = hypervisor.by_uuid(entry.uuid)
        if domain.ID() != entry.id:
            return ResumeOutcome.NOT_OURS
        state, why = hypervisor.call(f"asking for the state of domain {entry.name!r}", domain.state)
        if state in {libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED}:
            return ResumeOutcome.RUNNING
        if state != libvirt.VIR_DOMAIN_PAUSED or why not in OUR_PAUSES:
            return ResumeOutcome.NOT_OURS
        hypervisor.call(f"resuming domain {entry.name!r}", domain.resume)
    except GuestError as error:
        if error.reason is Reason.NOT_RUNNING:
            return _became(hypervisor, entry)
        if error.reason not in PASSING:
            return ResumeOutcome.NOT_OURS
        raise
    return ResumeOutcome.SUSPENDED


def _became(hypervisor: Hypervisor, entry: Entry) -> ResumeOutcome:
    """What became of a guest that libvirt would not resume because of its state: somebody was quicker, or it ended."""
    try:
        state, _ = hypervisor.call("asking for its state", hypervisor.by_uuid(entry.uuid).state)
    except GuestError as error:
        if error.reason in PASSING:
            raise
        return ResumeOutcome.NOT_OURS
    return ResumeOutcome.RUNNING if state == libvirt.VIR_DOMAIN_RUNNING else ResumeOutcome.NOT_OURS


def rescue(
    hypervisor: Hypervisor, entry: Entry, *, in_flight: bool, give_up: Callable[[], bool] = lambda: False
) -> ResumeOutcome:
    """Resume the guest, trying for as long as it takes: while libvirt is away, while a job holds the domain. With
    `in_flight` the call that suspends it may be yet to come, and a guest that runs is watched for it. Raises
    HypervisorError where `give_up` says so before that.
    """
    wait, longest = RETRY
    first_seen: float | None = None
    while True:
        try:
            found = attempt(hypervisor, entry)
            busy = found is ResumeOutcome.RUNNING and in_flight and _in_job(hypervisor, entry)
        except (GuestError, HypervisorError) as error:
            if give_up():
                raise HypervisorError(
                    f"domain {entry.name!r} is left paused: `virsh resume` it, or `samepaged recover` ({error})"
                ) from error
            log.warning("domain %r may be suspended and could not be resumed, trying on: %s", entry.name, error)
            time.sleep(wait)
            wait = min(2 * wait, longest)
            continue
        wait, _ = RETRY
        now = time.monotonic()
        first_seen = first_seen or now
        watched = IN_FLIGHT_BEHIND_JOB if busy else IN_FLIGHT
        if found is not ResumeOutcome.RUNNING or not in_flight or now - first_seen > watched:
            return found
        time.sleep(LOOK)


def _in_job(hypervisor: Hypervisor, entry: Entry) -> bool:
    domain = hypervisor.by_uuid(entry.uuid)
    job = hypervisor.call(f"asking for the jobs of domain {entry.name!r}", domain.jobInfo)
    return bool(job[0] != libvirt.VIR_DOMAIN_JOB_NONE)
