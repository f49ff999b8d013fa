"""The audit trail: one log line for each guest and scan, with the number and length of the guest's suspensions.

It documents samepaged's part in an incident of a guest, so scans that failed or were interrupted after a suspension
have a line as well.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from samepaged.errors import GuestError, HypervisorError, Reason
from samepaged.formatting import rfc3339
from samepaged.guard.suspend import LeftOpenError
from samepaged.log_line import details
from samepaged.memory.hashing import Interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["AuditEntry", "Pauses", "ScanMode", "failure", "fields", "logged", "message"]

log = logging.getLogger(__name__)

SCANNED: Final = "scanned"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One scan of one guest. `pauses` are seconds, `starts` their Unix times, in the same order. `mode` is the
    consistency mode, None if the scan failed. `result` is "scanned" or the reason of the failure. With `uncertain`, a
    further suspend or resume call was under way at the end of the scan.
    """

    name: str
    uuid: str
    mode: str | None
    pauses: tuple[float, ...]
    starts: tuple[float, ...]
    result: str
    uncertain: bool = False


class Pauses(Protocol):
    """The suspensions of one guest during one scan, and whether one of them went wrong."""

    pauses: list[float]
    pause_starts: list[float]
    failed: bool


@dataclass(slots=True)
class ScanMode:
    """The consistency mode of a scan, once it has succeeded."""

    mode: str | None = None


@contextmanager
def logged(name: str, uuid: str, suspended: Pauses) -> Iterator[ScanMode]:
    """Log the scan inside, however it ends. A scan that failed before its first suspension is not logged."""
    scan = ScanMode()
    try:
        yield scan
    except BaseException as error:
        uncertain = _uncertain(suspended, error)
        if suspended.pauses or uncertain:
            _log(_entry(name, uuid, suspended, None, failure(error), uncertain=uncertain))
        raise
    _log(_entry(name, uuid, suspended, scan.mode, SCANNED))


def _uncertain(suspended: Pauses, error: BaseException) -> bool:
    """Whether the guest may have been suspended for longer than its recorded pauses: a call did not return, or it
    failed half-way.
    """
    half_way = isinstance(error, GuestError) and error.reason is Reason.LIBVIRT and not suspended.pauses
    return isinstance(error, LeftOpenError) or (suspended.failed and half_way)


def _entry(
    name: str, uuid: str, suspended: Pauses, mode: str | None, result: str, *, uncertain: bool = False
) -> AuditEntry:
    return AuditEntry(name, uuid, mode, tuple(suspended.pauses), tuple(suspended.pause_starts), result, uncertain)


def _log(entry: AuditEntry) -> None:
    log.info("%s", message(entry), extra={"journal_fields": fields(entry)})


def failure(error: BaseException) -> str:
    """The word for a scan that ended in `error`."""
    match error:
        case GuestError():
            return error.reason.value
        case HypervisorError():
            return Reason.LIBVIRT.value
        case Interrupted() | KeyboardInterrupt() | SystemExit():
            return Reason.INTERRUPTED.value
        case _:
            return Reason.INTERNAL.value


def message(entry: AuditEntry) -> str:
    """The log line. The name is a JSON string: it can forge neither a line nor a detail of this one."""
    verb = "suspended" if entry.pauses else "may have suspended" if entry.uncertain else "did not suspend"
    return verb + details(**_details(entry))


def fields(entry: AuditEntry) -> dict[str, str]:
    """The same as fields of a journal entry. The name is as libvirt has it, so that `journalctl` can match it."""
    return {f"SAMEPAGED_{key.upper()}": value for key, value in _details(entry).items()}


def _details(entry: AuditEntry) -> dict[str, str]:
    found = {"domain": entry.name, "uuid": entry.uuid}
    if entry.mode is not None:
        found["mode"] = entry.mode
    found["pauses"] = str(len(entry.pauses))
    found["paused_seconds"] = f"{sum(entry.pauses):.6f}"
    found["longest_pause_seconds"] = f"{max(entry.pauses, default=0.0):.6f}"
    if entry.starts:
        found["first_pause"] = rfc3339(entry.starts[0])
        found["last_pause"] = rfc3339(entry.starts[-1])
    if entry.uncertain:
        found["uncertain"] = "yes"
    found["result"] = entry.result
    return found
