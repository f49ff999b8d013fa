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
    """How a check ended, from good to bad."""

    OK = "ok"
    WARNING = "warning"
    """samepaged works, but not as well or as safely as it could; or this could not be checked."""
    FAILURE = "failure"
    """samepaged, or its scan of a guest, cannot work like this."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was found, in a line without a full stop, and what helps where it is not `ok`: a command, or a setting.
    `domain` is the guest's name where it is about one.
    """

    name: str
    status: Status
    message: str
    remedy: str | None = None
    domain: str | None = None


def ok(name: str, message: str, domain: str | None = None) -> Check:
    """All is well."""
    return Check(name, Status.OK, message, None, domain)


def warning(name: str, message: str, remedy: str, domain: str | None = None) -> Check:
    """It works, with something to be said."""
    return Check(name, Status.WARNING, message, remedy, domain)


def failure(name: str, message: str, remedy: str, domain: str | None = None) -> Check:
    """It cannot work."""
    return Check(name, Status.FAILURE, message, remedy, domain)


def from_error(name: str, error: Exception, otherwise: str, status: Status = Status.FAILURE) -> Check:
    """The check that ended in this error, on one line; `otherwise` is the remedy if the error has none."""
    fault = Fault(error.problem, error.remedy) if isinstance(error, SamepagedError) else Fault(str(error))
    return from_fault(name, fault, otherwise, status)


def from_fault(name: str, fault: Fault, default_remedy: str, status: Status = Status.FAILURE) -> Check:
    """The check that found this fault, on one line; `default_remedy` is the remedy if the fault has none."""
    return Check(name, status, one_line(fault.problem), one_line(fault.remedy or default_remedy))


def one_line(text: str) -> str:
    """`text` with each run of white space as one space."""
    return " ".join(text.split())


def worst(checks: Iterable[Check]) -> Status:
    """The worst status of all; OK of none."""
    order = list(Status)
    return max((check.status for check in checks), key=order.index, default=Status.OK)
