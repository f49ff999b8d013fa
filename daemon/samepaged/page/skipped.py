"""Guests that were not scanned, or not in the preferred mode, each with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.errors import Reason
    from samepaged.guest_id import GuestId
    from samepaged.scan.results import HostScan

__all__ = ["Fallback", "Skipped", "SkippedRow", "fallbacks", "skipped"]

_MAX_ROWS: Final = 500
_MAX_NAMES: Final = 12


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A guest that was not scanned. `failures` counts its failures with the same reason since samepaged started."""

    name: str
    intended: bool
    reason: str
    message: str
    failures: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """The skipped guests, failures first; `total` includes guests without a row."""

    rows: tuple[SkippedRow, ...]
    total: int

    def __bool__(self) -> bool:
        return bool(self.rows)


@dataclass(frozen=True, slots=True)
class Fallback:
    """A reason for another mode than the preferred one, and the affected guests: `names`, and `more` others."""

    code: str
    reason: str | None
    names: tuple[str, ...]
    more: int
    all_guests: int | None


def skipped(scan: HostScan, failures: Mapping[tuple[GuestId, Reason], int]) -> Skipped:
    """The section on guests that were not scanned."""
    ordered = sorted(scan.skipped, key=lambda one: (one.reason.intended, one.name))
    rows = tuple(
        SkippedRow(
            one.name,
            one.reason.intended,
            one.reason.value,
            one.message,
            0 if one.guest_id is None else failures.get((one.guest_id, one.reason), 0),
        )
        for one in ordered[:_MAX_ROWS]
    )
    return Skipped(rows, len(ordered))


def fallbacks(scan: HostScan) -> tuple[Fallback, ...]:
    """The section on fallbacks: one entry for all guests with the same reason."""
    names: dict[tuple[str, str | None], list[str]] = {}
    for one in scan.scans:
        if one.fallback_code is not None:
            names.setdefault((one.fallback_code, one.fallback_reason), []).append(one.name)
    return tuple(
        Fallback(
            code,
            reason,
            tuple(concerned[:_MAX_NAMES]),
            max(len(concerned) - _MAX_NAMES, 0),
            len(concerned) if len(concerned) == len(scan.scans) > 1 else None,
        )
        for (code, reason), concerned in list(names.items())[:_MAX_ROWS]
    )
