"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Check", "Status", "failure", "from_error", "ok", "parted", "warning", "worst"]


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


def parted(message: str) -> tuple[str, str | None]:
    """An error's message as what and remedy: they are parted by the last semicolon (errors.py)."""
    what, semicolon, remedy = message.rpartition("; ")
    return (what, remedy) if semicolon else (message, None)


def from_error(name: str, error: Exception, default_remedy: str, status: Status = Status.FAILURE) -> Check:
    """The check that ended in this error, on one line; `default_remedy` is the remedy where its message names none."""
    what, remedy = parted(" ".join(str(error).split()))
    return Check(name, status, what, remedy or default_remedy)


def worst(checks: Iterable[Check]) -> Status:
    """The worst status of all; OK of none."""
    order = list(Status)
    return max((check.status for check in checks), key=order.index, default=Status.OK)
