"""The audit trail: one log line for each guest and scan, with the number and length of the guest's suspensions.

With it an operator can show the monitor's part when a guest misbehaved, so scans that failed or were interrupted after
a suspension have a line, too.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

from samepaged.errors import GuestError, HypervisorError, LeftPausedError, Reason
from samepaged.memory.hashing import Interrupted
from samepaged.printable import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["AuditEntry", "Pauses", "ScanMode", "failure", "fields", "logged", "message"]

log = logging.getLogger(__name__)

SCANNED: Final = "scanned"
LEFT_PAUSED: Final = "left_paused"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One scan of one guest. `pauses` are seconds, `starts` their Unix times, in the same order. `mode` is the
    consistency mode, None if the scan failed. `result` is "scanned", "left_paused", or the reason of the failure.
    """

    name: str
    uuid: str
    mode: str | None
    pauses: tuple[float, ...]
    starts: tuple[float, ...]
    result: str


class Pauses(Protocol):
    """The suspensions of one guest during one scan."""

    pauses: list[float]
    pause_starts: list[float]


@dataclass(slots=True)
class ScanMode:
    """The consistency mode of a scan, once it has succeeded."""

    mode: str | None = None


@contextmanager
def logged(name: str, uuid: str, suspended: Pauses) -> Iterator[ScanMode]:
    """Log the scan inside, however it ends. A scan that failed before it suspended the guest has no line."""
    scan = ScanMode()
    try:
        yield scan
    except BaseException as error:
        if suspended.pauses:
            _log(_entry(name, uuid, suspended, None, failure(error)))
        raise
    _log(_entry(name, uuid, suspended, scan.mode, SCANNED))


def _entry(name: str, uuid: str, suspended: Pauses, mode: str | None, result: str) -> AuditEntry:
    return AuditEntry(name, uuid, mode, tuple(suspended.pauses), tuple(suspended.pause_starts), result)


def _log(entry: AuditEntry) -> None:
    log.info("%s", message(entry), extra={"journal_fields": fields(entry)})


def failure(error: BaseException) -> str:
    """The word for a scan that ended in `error`."""
    match error:
        case GuestError():
            return error.reason.value
        case LeftPausedError():
            return LEFT_PAUSED
        case HypervisorError():
            return Reason.LIBVIRT.value
        case Interrupted() | KeyboardInterrupt() | SystemExit():
            return Reason.INTERRUPTED.value
        case _:
            return Reason.INTERNAL.value


def message(entry: AuditEntry) -> str:
    """The line for people and grep. The name is a JSON string: it can forge neither a line nor a detail of this one."""
    details = _details(entry) | {"domain": quoted(entry.name)}
    verb = "suspended" if entry.pauses else "did not suspend"
    return " ".join([verb, *(f"{key}={value}" for key, value in details.items())])


def fields(entry: AuditEntry) -> dict[str, str]:
    """The same as fields of a journal entry. The name is as libvirt has it, so that `journalctl` can match it."""
    return {f"SAMEPAGED_{key.upper()}": value for key, value in _details(entry).items()}


def _details(entry: AuditEntry) -> dict[str, str]:
    details = {"domain": entry.name, "uuid": entry.uuid}
    if entry.mode is not None:
        details["mode"] = entry.mode
    details["pauses"] = str(len(entry.pauses))
    details["paused_seconds"] = f"{sum(entry.pauses):.6f}"
    details["longest_pause_seconds"] = f"{max(entry.pauses, default=0.0):.6f}"
    if entry.starts:
        details["first_pause"] = _utc(entry.starts[0])
        details["last_pause"] = _utc(entry.starts[-1])
    details["result"] = entry.result
    return details


def _utc(time: float) -> str:
    """A Unix time as RFC 3339."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
