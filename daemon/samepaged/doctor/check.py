"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from samepaged.errors import Fault, SamepagedError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Check", "Status", "failure", "from_error", "from_fault", "ok", "one_line", "warning", "worst"]


class Status(StrEnum):
    """Status of a check, from best to worst."""

    OK = "ok"
    WARNING = "warning"
    """samepaged works, but less well or less safely than possible; or the check could not run."""
    FAILURE = "failure"
    """samepaged, or its scan of a guest, cannot work in this state."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check: a message of one line without a full stop, and, unless the status is `ok`, a remedy (a
    command or a setting). `domain`: name of the guest if the check concerns a guest.
    """

    name: str
    status: Status
    message: str
    remedy: str | None = None
    domain: str | None = None


def ok(name: str, message: str, domain: str | None = None) -> Check:
    """Return a successful check."""
    return Check(name, Status.OK, message, None, domain)


def warning(name: str, message: str, remedy: str, domain: str | None = None) -> Check:
    """Return a check with a warning."""
    return Check(name, Status.WARNING, message, remedy, domain)


def failure(name: str, message: str, remedy: str, domain: str | None = None) -> Check:
    """Return a failed check."""
    return Check(name, Status.FAILURE, message, remedy, domain)


def from_error(name: str, error: Exception, otherwise: str, status: Status = Status.FAILURE) -> Check:
    """Return the check that ended in this error, on one line. `otherwise`: the remedy if the error has none."""
    fault = Fault(error.problem, error.remedy) if isinstance(error, SamepagedError) else Fault(str(error))
    return from_fault(name, fault, otherwise, status)


def from_fault(name: str, fault: Fault, default_remedy: str, status: Status = Status.FAILURE) -> Check:
    """Return the check that found this fault, on one line. `default_remedy`: the remedy if the fault has none."""
    return Check(name, status, one_line(fault.problem), one_line(fault.remedy or default_remedy))


def one_line(text: str) -> str:
    """Return `text` with each run of white space as one space."""
    return " ".join(text.split())


def worst(checks: Iterable[Check]) -> Status:
    """Return the worst status of the checks; OK without checks."""
    order = list(Status)
    return max((check.status for check in checks), key=order.index, default=Status.OK)
