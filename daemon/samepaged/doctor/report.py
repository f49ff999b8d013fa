"""The results of `samepaged doctor` as text and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from samepaged.doctor.check import Status
from samepaged.escape import printable, valid
from samepaged.text_layout import wrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from samepaged.doctor.check import Check
    from samepaged.doctor.guests import GuestResult

__all__ = ["document", "text"]

COLOURS: Final = {Status.OK: "32", Status.WARNING: "33", Status.FAILURE: "31"}
WIDTH: Final = 80
# Width of the longest status, and two spaces.
MARGIN: Final = max(map(len, Status)) + 2


def text(checks: Sequence[Check], *, coloured: bool) -> str:
    """Return the checks, each with its remedy below it, then those of guests, then the number of checks by status.
    Lines have at most 80 columns.
    """
    host = [check for check in checks if check.domain is None]
    guests = [check for check in checks if check.domain is not None]
    lines = [line for check in host for line in _lines(check, coloured=coloured)]
    if guests:
        lines += ["", *(line for check in guests for line in _lines(check, coloured=coloured))]
    return "\n".join([*lines, "", _summary(checks)])


def _lines(check: Check, *, coloured: bool) -> Iterator[str]:
    about = check.name if check.domain is None else f"{check.name} {check.domain}"
    # Escape control characters and line breaks in names before wrapping.
    first, *more = wrapped(printable(f"{about}: {check.message}"), WIDTH, first=" " * MARGIN, rest=" " * MARGIN)
    status = f"{check.status:<{MARGIN}}"
    yield (f"\x1b[{COLOURS[check.status]}m{status}\x1b[0m" if coloured else status) + first[MARGIN:]
    yield from more
    if check.remedy is not None:
        yield from wrapped(printable(check.remedy), WIDTH, first=" " * MARGIN + "-> ", rest=" " * (MARGIN + 3))


def _summary(checks: Sequence[Check]) -> str:
    counted = Counter(check.status for check in checks)
    ok, warnings, failures = (counted[status] for status in Status)
    return f"{ok} ok, {warnings} warning{'s' * (warnings != 1)}, {failures} failure{'s' * (failures != 1)}"


def document(checks: Sequence[Check], guests: Sequence[GuestResult]) -> dict[str, Any]:
    """Return the results as one JSON object. Keys may be added, never renamed."""
    return {
        "schema": 1,
        "checks": [
            {
                "name": check.name,
                "status": check.status.value,
                "message": valid(check.message),
                "remedy": None if check.remedy is None else valid(check.remedy),
                "domain": None if check.domain is None else valid(check.domain),
            }
            for check in checks
        ],
        "guests": [_guest(guest) for guest in guests],
    }


def _guest(guest: GuestResult) -> dict[str, Any]:
    found, clock = guest.forecast, guest.clock
    obstacle = None if found is None else found.obstacle
    return {
        "name": valid(guest.name),
        "uuid": guest.uuid,
        "memory_bytes": guest.memory,
        "paused": guest.paused,
        "skipped_reason_code": None if guest.reason is None else guest.reason.value,
        "mode": None if found is None else found.mode,
        "reader": None if found is None else found.reader,
        "backed_bytes": None if found is None else found.backed,
        "predicted_pause_seconds": None if found is None else found.pause,
        "predicted_snapshot_seconds": None if found is None else found.snapshot,
        "predicted_paused_seconds": None if clock is None else clock.scan_seconds,
        "predicted_scan_period_seconds": None if clock is None else clock.period_seconds,
        "predicted_clock_loss_seconds_per_day": None if clock is None else clock.loss_seconds_per_day,
        "obstacle_code": None if obstacle is None else obstacle.code,
        "obstacle": None if obstacle is None else valid(obstacle.text),
    }
