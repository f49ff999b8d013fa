"""Suspending a guest, and above all resuming it."""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import libvirt

from samepaged.drift.budget import exhausted
from samepaged.errors import GuestError, HypervisorError, LeftPausedError, Reason
from samepaged.guard.client import GUARD_MARGIN
from samepaged.guard.resume import OUR_PAUSES, PASSING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from samepaged.drift.ledger import DriftAccount
    from samepaged.guard.client import GuardClient
    from samepaged.hypervisor.connection import Hypervisor
    from samepaged.hypervisor.guests import Guest

__all__ = ["Held", "Suspender"]

log = logging.getLogger(__name__)

# Seconds between attempts to resume a guest while libvirt is away: the first and the longest.
RETRY: Final = (0.05, 2.0)
# Seconds for which a resume is still tried when samepaged itself is to end: the guest comes first. The unit's
# TimeoutStopSec= is longer.
LAST_TRIES: Final = 60.0
# What says that a pause did not go well; that somebody else resumed the guest does not.
FAULTS: Final = frozenset({Reason.SUSPEND, Reason.LIBVIRT, Reason.NO_PERMISSION, Reason.OVERDUE})
# Seconds before the guard would step in, at which a scanner that is alive gives the scan up by itself.
BEFORE_THE_GUARD: Final = GUARD_MARGIN / 2


@dataclass(slots=True)
class Held:
    """One pause; its `seconds` are known when it is over."""

    seconds: float = 0.0


@dataclass
class Suspender:
    """Suspends one guest, as often as its scan wants, and keeps the length of each pause in seconds. A guest that
    somebody else has paused is left as it stands. A pause is to take no more than `max_pause` seconds; the guard ends
    one that takes a second more. `give_up` ends the waiting for a libvirt that went away while the guest was suspended.
    """

    hypervisor: Hypervisor
    guest: Guest
    guard: GuardClient
    max_pause: float
    give_up: Callable[[], bool]
    pauses: list[float] = field(default_factory=list)
    failed: bool = field(default=False, init=False)
    """Whether suspending or resuming went wrong, or a pause was ended as overdue."""
    account: DriftAccount | None = None
    _latest: float | None = field(default=None, init=False)
    _drift_spent: float | None = field(default=None, init=False)

    @contextmanager
    def __call__(self, expected: float = 0.0, *, dumping: bool = False) -> Iterator[Held]:
        """Hold the guest suspended. Where a pause longer than `max_pause` was asked for, `expected` says how long it
        may be, and it may then take twice that. With `dumping` libvirt is at work meanwhile. Raises GuestError where
        the guest cannot be suspended, or where it did not stay so: what was read meanwhile is then of no instant, and
        void.
        """
        held = Held()
        if self.guest.paused:
            self._resumed_by_others()
            self._check_paused_by_others()
            yield held
            self._check_paused_by_others()
            return
        left = math.inf if self.account is None else self.account.check(expected)
        seconds = self.max_pause if expected <= self.max_pause else 2 * expected
        with self._guarded(seconds + GUARD_MARGIN, dumping=dumping):
            # Both ends of the measure are outside of libvirt's calls: the guest stood still for no longer than this.
            began = time.monotonic()
            self._suspend()
            self._latest, self._drift_spent = began + seconds + BEFORE_THE_GUARD, began + left
            try:
                self.guard.suspended(self.guest.name)
                self._resumed_by_others()  # what was before does not count
                yield held
            finally:
                self._latest = self._drift_spent = None
                try:
                    self._resume()
                finally:
                    held.seconds = time.monotonic() - began
                    self.pauses.append(held.seconds)
                    if self.account is not None:
                        self.account.add(held.seconds)

    @contextmanager
    def _guarded(self, seconds: float, *, dumping: bool) -> Iterator[None]:
        guest = self.guest
        self.guard.arm(guest.name, guest.uuid, guest.id, seconds, dumping=dumping)
        try:
            yield
        except LeftPausedError:
            self.guard.leave_to_guard()
            raise
        except BaseException as error:
            self.failed |= isinstance(error, GuestError) and error.reason in FAULTS
            if self.guard.disarm():
                raise self._overdue() from error
            raise
        if self.guard.disarm():
            raise self._overdue()

    def _overdue(self) -> GuestError:
        self.failed = True
        return GuestError(
            Reason.OVERDUE,
            f"domain {self.guest.name!r} was resumed before it was read, its pause took too long: this scan is void; "
            "raise scan.max_pause, or have it read in another mode",
        )

    def stop(self) -> bool:
        """Asked by whatever reads: whether to stop. Raises GuestError where the guest has to be resumed now."""
        if self._latest is not None and time.monotonic() > self._latest:
            raise self._overdue()
        if self._drift_spent is not None and time.monotonic() > self._drift_spent:
            raise exhausted()
        return self.give_up()

    def _resumed_by_others(self) -> bool:
        return self.hypervisor.resumes.by_others(self.guest.uuid)

    def _state(self) -> tuple[Any, int, int]:
        """The domain looked up anew (the connection may be another one), its state, and the state's reason."""
        domain = self.hypervisor.by_uuid(self.guest.uuid)
        state, why = self.hypervisor.call(f"asking for the state of domain {self.guest.name!r}", domain.state)
        return domain, state, why

    def _check_paused_by_others(self) -> None:
        if self._state()[1] != libvirt.VIR_DOMAIN_PAUSED or self._resumed_by_others():
            raise GuestError(
                Reason.RESUMED_BY_OTHERS, f"domain {self.guest.name!r} was resumed by somebody else during its scan"
            )

    def _suspend(self) -> None:
        domain, state, _ = self._state()
        job = self.hypervisor.call(f"asking for the jobs of domain {self.guest.name!r}", domain.jobInfo)
        if job[0] != libvirt.VIR_DOMAIN_JOB_NONE:
            # A suspension in the middle of a migration would be the migration's, and not ours to end.
            raise GuestError(Reason.IN_JOB, f"domain {self.guest.name!r} is in a job that began meanwhile")
        if state != libvirt.VIR_DOMAIN_RUNNING:
            # Somebody was quicker: theirs is the pause, and theirs the resume.
            raise GuestError(Reason.SUSPEND, f"domain {self.guest.name!r} stopped running before it was suspended")
        try:
            self.hypervisor.call(f"suspending domain {self.guest.name!r}", domain.suspend)
        except (GuestError, HypervisorError) as error:
            if isinstance(error, HypervisorError) or error.reason is Reason.LIBVIRT:
                # The call failed half-way, or its answer was lost: the guest may be suspended all the same.
                self._resume(even_if_running=True)
            raise

    def _resume(self, *, even_if_running: bool = False) -> None:
        """Resume, again and again: while libvirt is away, while a job holds the domain, while QEMU does not answer."""
        wait, longest = RETRY
        last_try: float | None = None
        while True:
            try:
                self.hypervisor.connect()
                self._resume_once(even_if_running=even_if_running)
            except Exception as error:
                if isinstance(error, GuestError) and error.reason not in PASSING:
                    raise
                now = time.monotonic()
                if self.give_up() and last_try is None:
                    last_try = now + LAST_TRIES
                if last_try is not None and now > last_try:
                    raise self._left_paused(error) from error
                log.warning("domain %r is suspended and could not be resumed, trying on: %s", self.guest.name, error)
                time.sleep(wait)
                wait = min(2 * wait, longest)
            else:
                return

    def _left_paused(self, error: Exception) -> LeftPausedError:
        text = f"domain {self.guest.name!r} is left paused: `virsh resume` it ({error})"
        log.critical(text)
        return LeftPausedError(text)

    def _resume_once(self, *, even_if_running: bool) -> None:
        name = self.guest.name
        domain, state, why = self._state()
        if state == libvirt.VIR_DOMAIN_RUNNING:
            if even_if_running:
                return
            raise GuestError(Reason.RESUMED_BY_OTHERS, f"domain {name!r} was resumed by somebody else during its scan")
        if state != libvirt.VIR_DOMAIN_PAUSED or why not in OUR_PAUSES:
            raise GuestError(Reason.SUSPEND, f"domain {name!r} went into another state while suspended; left as it is")
        others = self._resumed_by_others()
        self.hypervisor.resumes.own(self.guest.uuid)
        self.hypervisor.call(f"resuming domain {name!r}", domain.resume)
        if others:
            raise GuestError(Reason.RESUMED_BY_OTHERS, f"domain {name!r} ran for a while during its scan: it is void")
