"""The errors that samepaged reports to its users, each with its exit status.

An error carries the problem and its remedy as fields. As text it is one line: the problem, a semicolon, the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from samepaged.escape import printable

__all__ = [
    "ConfigError",
    "Fault",
    "GuestError",
    "HypervisorError",
    "InvalidValueError",
    "OpenEntriesError",
    "Reason",
    "SamepagedError",
    "TraceError",
    "UsageError",
    "excluded",
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


@dataclass(frozen=True, slots=True)
class Fault:
    """One problem, in a line, and its remedy: a command or a setting."""

    problem: str
    remedy: str | None = None

    def __str__(self) -> str:
        return self.problem if self.remedy is None else f"{self.problem}; {self.remedy}"


class SamepagedError(Exception):
    """The base of the errors that samepaged raises. `problem` is a line that names its subject; `remedy` is None if the
    problem needs no action or has several causes.
    """

    exit_status = 1

    def __init__(self, problem: str, remedy: str | None = None) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return str(Fault(self.problem, self.remedy))


class UsageError(SamepagedError):
    """The command line has an option or a value that samepaged does not accept."""

    exit_status = 2


class ConfigError(SamepagedError):
    """The configuration is not usable. A fault's problem has the file, the line, the column and the key. As text, each
    fault has a line.
    """

    exit_status = 2

    def __init__(self, *faults: Fault) -> None:
        if len(faults) == 1:
            super().__init__(faults[0].problem, faults[0].remedy)
        else:
            super().__init__("\n".join(map(str, faults)))
        self.faults = faults

    @property
    def problems(self) -> tuple[str, ...]:
        """The faults as lines."""
        return tuple(map(str, self.faults))


class TraceError(SamepagedError):
    """samepaged cannot write, read or interpret a trace. Text from the file, or its name, cannot control a terminal."""

    def __init__(self, path: object, problem: str, remedy: str) -> None:
        name, problem = (printable(" ".join(text.split())) for text in (str(path), problem))
        super().__init__(f"{name}: {problem}", remedy)


class InvalidValueError(UsageError, ValueError):
    """A value of a configuration key or an option is not accepted. pydantic and argparse collect it as a ValueError."""


class HypervisorError(SamepagedError):
    """libvirt cannot be reached, or the connection was lost."""

    exit_status = 3


class OpenEntriesError(SamepagedError):
    """samepaged ends while its journal has open entries: a guest may be suspended, or a suspend call may be queued."""


class GuestError(SamepagedError):
    """The scan of one guest failed, or samepaged skipped it; other guests are not affected.

    With `domain`, a name, `detail` is a predicate of that domain, such as "is in a job". Without, `detail` is a clause,
    and `names_domain` is true if it contains the domain's name. `problem` is the sentence of both.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str,
        remedy: str | None = None,
        *,
        domain: str | None = None,
        names_domain: bool = False,
    ) -> None:
        super().__init__(detail if domain is None else f"domain {domain!r} {detail}", remedy)
        self.reason = reason
        self.detail = detail
        self.domain = domain
        self._names_domain = names_domain or domain is not None

    def about(self, domain: str) -> str:
        """The error as a line that names `domain`."""
        return str(self) if self._names_domain else f"domain {domain!r}: {self}"


def excluded(domain: str) -> GuestError:
    """The error of a domain that the configuration does not select."""
    return GuestError(Reason.EXCLUDED, "is excluded by the configuration (guests)", domain=domain)
