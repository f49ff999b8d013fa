"""Settlement of one open journal entry: resume the guest if it is paused, and verify that no suspend call is pending.

libvirt carries out a suspend call even if the client that made it is dead, and however late QEMU answers. So the state
of a guest is not conclusive while its monitor is busy. An entry is settled when QEMU's monitor has answered a harmless
query after the caller's end (libvirt's workers have then begun each earlier call), and the monitor has been free for
IN_FLIGHT_SECONDS since.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.hypervisor.protocol import ControlState, RunState
from samepaged.log_line import details

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.guard.journal import OpenEntry
    from samepaged.hypervisor.protocol import Domain, Hypervisor

__all__ = ["TRANSIENT_REASONS", "ResumeOutcome", "ResumeTask"]

log = logging.getLogger(__name__)

# Transient failures of a resume. After any other failure, samepaged must not resume the guest.
TRANSIENT_REASONS: Final = frozenset(
    {
        *(Reason.LIBVIRT, Reason.IN_JOB, Reason.NO_ANSWER, Reason.MONITOR_BUSY),
        *(Reason.NO_PERMISSION, Reason.NO_RESOURCES, Reason.INTERNAL),
    }
)

# A suspend call that waits for the domain's job gets it as soon as the job is free, or fails.
IN_FLIGHT_SECONDS: Final = 5.0
# A call that was begun waits for half a minute for a job (QEMU_JOB_WAIT_TIME): behind a longer job, such as a
# migration, none of samepaged's calls is left.
BEHIND_JOB_SECONDS: Final = 40.0
# Longest time that a query of another client may occupy the monitor before it counts as a hang.
SHORT_JOB_SECONDS: Final = 0.5
# A call of samepaged that has not returned is repeated only after this time: libvirt waits for the job as long, and
# each call occupies one of libvirtd's workers.
UNANSWERED_SECONDS: Final = 31.0
# Poll intervals: at first, and after FAST_POLL_SECONDS.
POLL_SECONDS: Final = 0.03
SLOW_POLL_SECONDS: Final = 0.3
FAST_POLL_SECONDS: Final = 10.0
# After a failure: the first and the longest wait.
RETRY_SECONDS: Final = (0.05, 1.0)
CONNECT_SECONDS: Final = 5.0

QUEUED_TEXT: Final = "a suspend or resume call may still be queued in libvirt, because QEMU's monitor is busy"
WATCHED_TEXT: Final = "the guest is not paused by samepaged; a suspend call may still be pending"


class ResumeOutcome(Enum):
    """How an entry was resolved."""

    RESUMED = auto()
    """The guest was suspended, and has been resumed."""
    RUNNING = auto()
    """It runs, and no suspend call is under way."""
    NOT_OURS = auto()
    """It has ended, was restarted, or has a state that is not a pause by samepaged: it is left unchanged."""
    RESOLVED_ELSEWHERE = auto()
    """Another process of samepaged has settled the entry."""


@dataclass
class ResumeTask:
    """Resumes the guest of one open entry. Call `poll` at `due_time` (of `clock`, in seconds) until it returns an
    outcome.

    With `in_flight` the suspend call may still be pending; otherwise it has returned.
    """

    open_entry: OpenEntry
    hypervisor: Hypervisor
    in_flight: bool = True
    clock: Callable[[], float] = time.monotonic
    other_uri: bool = False
    """Whether the connection is to another URI than the entry's, where the domain may not exist."""
    due_time: float = field(default=0.0, init=False)
    progress: str = field(default="not checked yet", init=False)
    """The progress, as a phrase for messages."""
    paused_seconds: float = field(default=0.0, init=False)
    """Seconds for which the guest was observed paused."""
    resumed: bool = field(default=False, init=False)
    """Whether the guest was resumed here."""
    _started: float = field(default=0.0, init=False)
    _quiet_since: float | None = field(default=None, init=False)
    _behind_since: float | None = field(default=None, init=False)
    _answered: bool = field(default=False, init=False)
    _contended: bool = field(default=False, init=False)
    _call_started: float | None = field(default=None, init=False)
    _paused_since: float | None = field(default=None, init=False)
    _retry_seconds: float = field(default=RETRY_SECONDS[0], init=False)
    _last_warning: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self._started = self.due_time = self.clock()

    def poll(self) -> ResumeOutcome | None:
        """Check the guest once, and resume it if it is paused. Returns the outcome when the entry is settled."""
        try:
            outcome = self._poll()
        except (GuestError, HypervisorError) as error:
            self._record_failure(error)
            return None
        self._retry_seconds = RETRY_SECONDS[0]
        now = self.clock()
        self.due_time = now + (POLL_SECONDS if now - self._started < FAST_POLL_SECONDS else SLOW_POLL_SECONDS)
        if outcome is ResumeOutcome.RUNNING and self.resumed:
            return ResumeOutcome.RESUMED
        return outcome

    def _record_failure(self, error: Exception) -> None:
        self._restart_watch()
        self.progress = f"not settled yet, retrying: {error}"
        if self.progress != self._last_warning:
            text = "journal entry not settled, retrying%s"
            log.warning(text, details(domain=self.open_entry.entry.name, error=error))
            self._last_warning = self.progress
        self.due_time = self.clock() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, RETRY_SECONDS[1])

    def _restart_watch(self) -> None:
        self._quiet_since, self._behind_since, self._answered, self._contended = None, None, False, True

    def _may_call(self) -> bool:
        """Whether a call that may wait for QEMU or for the domain's job is allowed: not while an earlier call is
        pending. `_call_started` is reset after the call.
        """
        if (
            self._call_started is not None
            and self.hypervisor.unanswered
            and self.clock() - self._call_started < UNANSWERED_SECONDS
        ):
            self._restart_watch()
            self.progress = QUEUED_TEXT
            return False
        self._call_started = self.clock()
        return True

    def _poll(self) -> ResumeOutcome | None:
        entry = self.open_entry.entry
        if not self.open_entry.is_open:
            return ResumeOutcome.RESOLVED_ELSEWHERE
        self.hypervisor.connect(CONNECT_SECONDS)
        try:
            domain = self.hypervisor.by_uuid(entry.uuid)
            if domain.id != entry.id:
                return self._other_domain()
            return self._resume_if_paused(domain)
        except GuestError as error:
            if error.reason in TRANSIENT_REASONS or error.reason is Reason.NOT_RUNNING:
                raise
            return self._other_domain()

    def _other_domain(self) -> ResumeOutcome:
        if self.other_uri:
            name, uri = self.open_entry.entry.name, self.open_entry.entry.uri
            raise HypervisorError(f"domain {name!r} of the journal entry is not at this URI; the entry names {uri!r}")
        return ResumeOutcome.NOT_OURS

    def _resume_if_paused(self, domain: Domain) -> ResumeOutcome | None:
        control, since = domain.control()
        state = domain.state()
        self._add_paused_time(state)
        if control is ControlState.OCCUPIED:
            # An error of the control interface is without a time.
            if not 0 < since < SHORT_JOB_SECONDS:
                self._restart_watch()
                self.progress = QUEUED_TEXT
            return None
        if state is RunState.PAUSED:
            return self._resume(domain)
        if state is RunState.OTHER:
            return ResumeOutcome.NOT_OURS
        done = ResumeOutcome.RUNNING if state is RunState.RUNNING else ResumeOutcome.NOT_OURS
        if not self.in_flight:
            return done
        self.progress = WATCHED_TEXT
        return done if self._is_quiet(domain, control) else None

    def _resume(self, domain: Domain) -> ResumeOutcome | None:
        self.progress = "the guest is suspended, and is being resumed"
        if not self._may_call():
            return None
        domain.resume()
        self._call_started = None
        self.resumed = True
        self._add_paused_time(RunState.RUNNING)
        # The suspend call that was observed waiting may not be the one that suspended the guest.
        return None if self._contended and self.in_flight else ResumeOutcome.RUNNING

    def _is_quiet(self, domain: Domain, control: ControlState) -> bool:
        """Whether it is certain that no suspend call is pending."""
        if not self._may_call():
            return False
        if not self._answered:
            domain.ping()
            self._call_started, self._answered = None, True
            return False
        job = control is ControlState.JOB or domain.in_job()
        self._call_started = None
        now = self.clock()
        if job:
            self._quiet_since, self._behind_since = None, self._behind_since or now
            return now - self._behind_since > BEHIND_JOB_SECONDS
        self._quiet_since, self._behind_since = self._quiet_since or now, None
        return now - self._quiet_since >= IN_FLIGHT_SECONDS

    def _add_paused_time(self, state: RunState) -> None:
        """Add the time for which the guest is observed paused."""
        now = self.clock()
        if self._paused_since is not None:
            self.paused_seconds += now - self._paused_since
        self._paused_since = now if state is RunState.PAUSED else None
