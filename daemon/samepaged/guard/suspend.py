"""Suspension of a guest, with a guaranteed attempt to resume it."""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from samepaged.drift.budget import exhausted_error
from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.guard.client import GUARD_MARGIN_SECONDS
from samepaged.guard.resume import TRANSIENT_REASONS
from samepaged.hypervisor.protocol import CallNotMadeError, RunState, check_monitor
from samepaged.log_line import details

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from samepaged.drift.ledger import DriftAccount
    from samepaged.guard.client import Guard
    from samepaged.hypervisor.guest import Guest
    from samepaged.hypervisor.protocol import Domain, Hypervisor

__all__ = ["LeftOpenError", "SuspendedDomain", "Suspender"]

log = logging.getLogger(__name__)

# Time for resume attempts while the scan of the other guests waits. After it, the open journal entry is settled in the
# background.
RESUME_SECONDS: Final = 3.0
# First and longest wait between two attempts.
RETRY_SECONDS: Final = (0.05, 0.5)
# A pause that failed for one of these reasons is a fault; a resume by another client is not.
SUSPEND_FAILURES: Final = frozenset(
    {Reason.SUSPEND, Reason.LIBVIRT, Reason.NO_ANSWER, Reason.NO_PERMISSION, Reason.OVERDUE}
)
# Seconds before the guard's deadline at which a live scanner aborts the scan by itself.
LEAD_SECONDS: Final = GUARD_MARGIN_SECONDS / 2
# Each call that does not return occupies one of libvirtd's workers (max_workers is 20): other clients need them as
# well.
MAX_UNANSWERED_CALLS: Final = 4


class LeftOpenError(GuestError):
    """A suspend or resume call has not returned, or its answer was lost: the journal entry stays open."""

    def __init__(self, name: str, known: str, error: BaseException) -> None:
        super().__init__(
            Reason.NO_ANSWER,
            f"domain {name!r}: {known}; its journal entry stays open until the guest is confirmed to run ({error})",
            names_domain=True,
        )


@dataclass(slots=True)
class SuspendedDomain:
    """One pause; `seconds` is set at its end."""

    seconds: float = 0.0


@dataclass
class Suspender:
    """Suspends one guest, as often as its scan requires, and records the length of each pause in seconds. A guest that
    another client has paused stays paused. A pause should take at most `max_pause` seconds; the guard ends a pause that
    takes a second longer. `give_up` returns True when samepaged stops.
    """

    hypervisor: Hypervisor
    guest: Guest
    guard: Guard
    max_pause: float
    give_up: Callable[[], bool]
    pauses: list[float] = field(default_factory=list)
    pause_starts: list[float] = field(default_factory=list, init=False)
    """Start of each of these pauses (Unix time)."""
    failed: bool = field(default=False, init=False)
    """Whether suspending or resuming went wrong, or a pause was ended as overdue."""
    account: DriftAccount | None = None
    _resume_deadline: float | None = field(default=None, init=False)
    _drift_spent: float | None = field(default=None, init=False)
    _began_at: float = field(default=0.0, init=False)
    _resumed_at: float | None = field(default=None, init=False)
    _guard_resumed: bool = field(default=False, init=False)

    @contextmanager
    def __call__(self, expected: float = 0.0, *, dumping: bool = False) -> Iterator[SuspendedDomain]:
        """Keep the guest suspended inside the context. `expected` is the predicted length of a pause longer than
        `max_pause`, in seconds; such a pause may take twice as long. `dumping`: libvirt writes a dump meanwhile. Raises
        GuestError if the guest cannot be suspended, or if it was resumed meanwhile: the pages read are then not of one
        instant, and void. Raises LeftOpenError if a libvirt call did not return in time.
        """
        held = SuspendedDomain()
        if self.guest.paused:
            self._other_client_resumed()
            self._check_paused_by_others()
            yield held
            self._check_paused_by_others()
            return
        left = math.inf if self.account is None else self.account.check(expected)
        self._check_monitor()
        seconds = self.max_pause if expected <= self.max_pause else 2 * expected
        with self._armed(seconds + GUARD_MARGIN_SECONDS, dumping=dumping):
            # The measurement includes libvirt's calls, so it is an upper bound of the pause.
            began, self._began_at = time.monotonic(), time.time()
            self._resumed_at, self._guard_resumed = None, False
            try:
                self._suspend()
            except GuestError as error:
                # The guest may have been paused for as long: its drift budget is charged.
                if isinstance(error, LeftOpenError) or error.reason is Reason.LIBVIRT:
                    self._charge(time.monotonic() - began)
                raise
            self._resume_deadline, self._drift_spent = began + seconds + LEAD_SECONDS, began + left
            try:
                self.guard.suspended(self.guest.name)
                self._other_client_resumed()  # earlier resumes do not count
                yield held
            finally:
                self._resume_deadline = self._drift_spent = None
                if dumping:
                    self.guard.dump_ended()
                try:
                    self._resume()
                finally:
                    held.seconds = (self._resumed_at or time.monotonic()) - began
                    if self._guard_resumed:
                        # A scanner that was stopped itself has not measured the resume: the guard resumes the guest
                        # within this time.
                        held.seconds = min(held.seconds, seconds + 2 * GUARD_MARGIN_SECONDS)
                    self._count(held.seconds)

    def _count(self, seconds: float) -> None:
        """Record the pause. Must not raise: an error here would hide a failed resume."""
        self.pauses.append(seconds)
        self.pause_starts.append(self._began_at)
        self._charge(seconds)

    def _charge(self, seconds: float) -> None:
        """Charge it to the drift budget. Must not raise, as `_count`."""
        if self.account is not None:
            try:
                self.account.add(seconds)
            except Exception:
                log.exception("pause not counted%s", details(domain=self.guest.name, seconds=seconds))

    @contextmanager
    def _armed(self, seconds: float, *, dumping: bool) -> Iterator[None]:
        guest = self.guest
        self.guard.arm(guest.name, guest.uuid, guest.id, seconds, dumping=dumping)
        try:
            yield
        except LeftOpenError as error:
            self.failed = True
            self.guard.leave_open()
            log.error("journal entry left open%s", details(domain=guest.name, error=error))  # noqa: TRY400 - no traceback
            raise
        except BaseException as error:
            self.failed |= isinstance(error, GuestError) and error.reason in SUSPEND_FAILURES
            if self.guard.disarm():
                raise self._overdue_error() from error
            raise
        if self.guard.disarm():
            raise self._overdue_error()

    def _overdue_error(self) -> GuestError:
        self.failed = True
        return GuestError(
            Reason.OVERDUE,
            "was resumed before it was read, because its pause took too long: this scan is void",
            "raise scan.max_pause, or set another scan.mode",
            domain=self.guest.name,
        )

    def stop(self) -> bool:
        """Whether the reader must stop; it polls this. Raises GuestError if the guest must be resumed now."""
        if self._resume_deadline is not None and time.monotonic() > self._resume_deadline:
            raise self._overdue_error()
        if self._drift_spent is not None and time.monotonic() > self._drift_spent:
            raise exhausted_error()
        return self.give_up()

    def _other_client_resumed(self) -> bool:
        return self.hypervisor.resumes.by_others(self.guest.uuid)

    def _domain(self) -> Domain:
        """Look the domain up again: the connection may be another one."""
        return self.hypervisor.by_uuid(self.guest.uuid)

    def _check_paused_by_others(self) -> None:
        state = self._domain().state()
        if state not in {RunState.PAUSED, RunState.PAUSED_OTHERWISE} or self._other_client_resumed():
            raise GuestError(
                Reason.RESUMED_BY_OTHERS, "was resumed by another client during its scan", domain=self.guest.name
            )

    def _check_monitor(self) -> None:
        """Raise GuestError unless QEMU responds now: a pending suspend call cannot be cancelled."""
        name, unanswered = self.guest.name, self.hypervisor.unanswered
        if unanswered >= MAX_UNANSWERED_CALLS:
            raise GuestError(
                Reason.MONITOR_BUSY,
                f"is not suspended: {unanswered} calls for other domains have not returned, and each occupies a worker "
                "of libvirtd",
                "check why their QEMU processes hang",
                domain=name,
            )
        domain = self._domain()
        check_monitor(domain)
        try:
            domain.ping()
        except GuestError as error:
            if error.reason not in {Reason.NO_ANSWER, Reason.IN_JOB}:
                raise
            raise GuestError(
                Reason.MONITOR_BUSY,
                f"is not suspended, because its QEMU does not respond: {error.problem}",
                error.remedy,
                domain=name,
            ) from error

    def _suspend(self) -> None:
        name = self.guest.name
        domain = self._domain()
        # During a migration, the pause may belong to the migration, and samepaged must not end it.
        check_monitor(domain)
        if domain.state() is not RunState.RUNNING:
            # Another client has paused the guest meanwhile, and must resume it.
            raise GuestError(Reason.SUSPEND, "stopped running before it was suspended", domain=name)
        try:
            domain.suspend()
        except CallNotMadeError:
            raise
        except HypervisorError as error:
            raise LeftOpenError(name, "the answer to the suspend call was lost", error) from error
        except GuestError as error:
            if error.reason is Reason.NO_ANSWER:
                raise LeftOpenError(name, "the suspend call may still be queued in libvirt", error) from error
            if error.reason is Reason.LIBVIRT:
                # The call failed half-way: the guest may still be suspended.
                self._resume(even_if_running=True)
            raise
        except BaseException as error:
            raise LeftOpenError(name, "the suspend call was interrupted", error) from error

    def _resume(self, *, even_if_running: bool = False) -> None:
        """Resume the guest; retry for RESUME_SECONDS while libvirt is unavailable or a job holds the domain."""
        wait, longest = RETRY_SECONDS
        deadline = time.monotonic() + RESUME_SECONDS
        while True:
            try:
                self.hypervisor.connect(RESUME_SECONDS)
                self._resume_once(even_if_running=even_if_running)
            except Exception as error:
                if isinstance(error, GuestError) and error.reason not in TRANSIENT_REASONS:
                    raise
                if isinstance(error, GuestError) and error.reason is Reason.NO_ANSWER:
                    raise LeftOpenError(
                        self.guest.name, "it is suspended, and the resume call may still be queued in libvirt", error
                    ) from error
                if time.monotonic() + wait > deadline:
                    raise LeftOpenError(self.guest.name, "it is suspended and could not be resumed", error) from error
                log.warning("guest not resumed, retrying%s", details(domain=self.guest.name, error=error))
                time.sleep(wait)
                wait = min(2 * wait, longest)
            else:
                return

    def _resume_once(self, *, even_if_running: bool) -> None:
        name = self.guest.name
        domain = self._domain()
        state = domain.state()
        if state is RunState.RUNNING:
            if even_if_running:
                return
            self._guard_resumed = True
            raise GuestError(Reason.RESUMED_BY_OTHERS, "was resumed by another client during its scan", domain=name)
        if state is not RunState.PAUSED:
            raise GuestError(Reason.SUSPEND, "changed its state while suspended, and was not resumed", domain=name)
        others = self._other_client_resumed()
        self.hypervisor.resumes.count_call(self.guest.uuid)
        try:
            domain.resume()
        except GuestError as error:
            if error.reason is not Reason.NO_ANSWER:
                self.hypervisor.resumes.uncount_call(self.guest.uuid)
            raise
        self._resumed_at = time.monotonic()
        # The guest runs: now the wait for a late event does no harm.
        self.hypervisor.resumes.wait_for_event(self.guest.uuid)
        if self._other_client_resumed() or others:
            raise GuestError(Reason.RESUMED_BY_OTHERS, "ran for a while during its scan: the scan is void", domain=name)
