"""The guests' clocks, as the daemon shows and logs them: how long each guest was suspended, and scans that wait."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from samepaged.drift.ledger import PauseLedger
from samepaged.errors import Reason
from samepaged.scan.clock_sync import ClockSync

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from samepaged.drift.ledger import PausedTime
    from samepaged.guard.resume_queue import ResolvedEntry
    from samepaged.scan.results import SkippedGuest

__all__ = ["Clocks", "paused_times"]

log = logging.getLogger(__name__)


def paused_times(ledger: PauseLedger, guests: Mapping[str, str]) -> dict[str, PausedTime]:
    """How long each of the guests was suspended, by name; `guests` has names by UUID."""
    return {name: ledger.paused_time(uuid) for uuid, name in guests.items()}


class Clocks:
    """The ledger, the agents' calls, and the guests of the latest round of scans."""

    def __init__(self) -> None:
        self.ledger = PauseLedger()
        self.sync = ClockSync()
        self._guests: dict[str, str] = {}
        self._waiting: set[str] = set()

    def round_ended(self, running: Mapping[str, str], skipped: Iterable[SkippedGuest]) -> None:
        """Take over which guests run (names by UUID), and log the beginning of each wait for the drift budget once."""
        self._guests = dict(running)
        refused = {one.name: one.message for one in skipped if one.reason is Reason.DRIFT_BUDGET}
        for name in refused.keys() - self._waiting:
            log.info("not scanned until it fits the drift budget: %s", refused[name])
        self._waiting = set(refused)

    def add_settled(self, settled: ResolvedEntry) -> None:
        """Count the time for which a guest with an open journal entry was seen suspended (any thread)."""
        if settled.paused_seconds:
            self.ledger.add(settled.open_entry.entry.uuid, settled.paused_seconds)

    def paused(self) -> dict[str, PausedTime]:
        """How long each guest that runs was suspended, by name."""
        return paused_times(self.ledger, self._guests)
