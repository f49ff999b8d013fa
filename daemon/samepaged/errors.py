"""Every error that a user can meet: one root, a few children, each with the exit status that it ends in.

A message is one line that names the thing and, after a semicolon, the remedy.
"""

from __future__ import annotations

from enum import StrEnum

from samepaged.escape import printable

__all__ = [
    "ConfigError",
    "GuestError",
    "HypervisorError",
    "OpenEntriesError",
    "Reason",
    "SamepagedError",
    "TraceError",
    "UsageError",
]


class Reason(StrEnum):
    """Why a guest was not scanned. The values are label values of `samepage_scan_failures_total`: few, and fixed."""

    GONE = "gone"
    NOT_RUNNING = "not_running"
    NO_SUCH_DOMAIN = "no_such_domain"
    EXCLUDED = "excluded"
    OPTED_OUT = "opted_out"
    IN_JOB = "in_job"
    MONITOR_BUSY = "monitor_busy"
    NO_ANSWER = "no_answer"
    OPEN_ENTRY = "open_entry"
    CRASHED = "crashed"
    PM_SUSPENDED = "pm_suspended"
    ENCRYPTED = "encrypted"
    MACVTAP = "macvtap"
    NO_PID = "no_pid"
    NO_PERMISSION = "no_permission"
    NO_RESOURCES = "no_resources"
    LAYOUT = "layout"
    DUMP = "dump"
    READ = "read"
    SUSPEND = "suspend"
    OVERDUE = "overdue"
    TOO_LONG = "too_long"
    DRIFT_BUDGET = "drift_budget"
    LEFT_ALONE = "left_alone"
    NO_GUARD = "no_guard"
    NO_JOURNAL = "no_journal"
    VERIFICATION = "verification"
    RESUMED_BY_OTHERS = "resumed_by_others"
    LIBVIRT = "libvirt"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"

    @property
    def intended(self) -> bool:
        """Whether this is the wish of the operator, or of the guest's owner, and so no failure."""
        return self in {Reason.EXCLUDED, Reason.OPTED_OUT, Reason.DRIFT_BUDGET}


class SamepagedError(Exception):
    """The root of what samepaged raises on purpose."""

    exit_status = 1


class UsageError(SamepagedError):
    """The command line asks for something that does not exist."""

    exit_status = 2


class ConfigError(SamepagedError):
    """The configuration cannot be used. `problems` has one line each: file, line, column, what, remedy."""

    exit_status = 2

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class TraceError(SamepagedError):
    """A trace cannot be written, read or understood: its file, what is wrong, and the remedy. What comes from the file
    or its name cannot write on a terminal.
    """

    def __init__(self, path: object, problem: str, remedy: str) -> None:
        what, problem = (printable(" ".join(text.split())) for text in (str(path), problem))
        super().__init__(f"{what}: {problem}; {remedy}")


class HypervisorError(SamepagedError):
    """libvirt cannot be reached, or was lost."""

    exit_status = 3


class OpenEntriesError(SamepagedError):
    """samepaged ends while its journal has open entries: a guest may be suspended, or a suspend call may be queued."""


class GuestError(SamepagedError):
    """One guest could not be scanned; the others can."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
