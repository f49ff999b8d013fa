"""The guests' clocks, as the daemon shows and logs them: how long each guest was suspended, and scans that wait."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from samepaged.drift.ledger import PauseLedger
from samepaged.errors import Reason
from samepaged.scan.clock_sync import ClockSync

if TYPE_CHECKING:
    from collections.abc import Iterable

    from samepaged.drift.ledger import PausedTime
    from samepaged.guard.resume_queue import SettledEntry
    from samepaged.guest_id import GuestId
    from samepaged.scan.results import SkippedGuest

__all__ = ["Clocks", "paused_times"]

log = logging.getLogger(__name__)


def paused_times(ledger: PauseLedger, guests: Iterable[GuestId]) -> dict[GuestId, PausedTime]:
    """The time for which samepaged kept each of the guests suspended."""
    return {guest_id: ledger.paused(guest_id.uuid) for guest_id in guests}


class Clocks:
    """The ledger, the agents' calls, and the guests of the latest round of scans."""

    def __init__(self) -> None:
        self.ledger = PauseLedger()
        self.sync = ClockSync()
        self._guests: tuple[GuestId, ...] = ()
        self._waiting: set[GuestId] = set()

    def round_ended(self, running: Iterable[GuestId], skipped: Iterable[SkippedGuest]) -> None:
        """Take over the guests that run, and log the beginning of each wait for the drift budget once."""
        self._guests = tuple(running)
        refused = {
            one.guest_id: one.message
            for one in skipped
            if one.guest_id is not None and one.reason is Reason.DRIFT_BUDGET
        }
        for guest_id in refused.keys() - self._waiting:
            log.info("not scanned until it fits the drift budget: %s", refused[guest_id])
        self._waiting = set(refused)

    def add_settled(self, settled: SettledEntry) -> None:
        """Count the time for which a guest with an open journal entry was seen suspended (any thread)."""
        if settled.paused_seconds:
            self.ledger.add(settled.found.entry.uuid, settled.paused_seconds)

    def paused(self) -> dict[GuestId, PausedTime]:
        """The time for which samepaged kept each guest that runs suspended."""
        return paused_times(self.ledger, self._guests)
