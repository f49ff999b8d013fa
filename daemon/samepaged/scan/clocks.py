"""The guests' clocks: the time for which each was suspended, scans that wait, and setting a clock after a scan."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from samepaged import threads
from samepaged.drift.ledger import PauseLedger
from samepaged.errors import HypervisorError, Reason
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from samepaged.drift.ledger import PausedTime
    from samepaged.guard.resume_queue import ResolvedEntry
    from samepaged.hypervisor.protocol import Hypervisor
    from samepaged.scan.results import SkippedGuest

__all__ = ["ClockSync", "Clocks", "paused_times"]

log = logging.getLogger(__name__)

# Each agent that does not answer occupies one of libvirtd's workers (max_workers is 20): other clients need them, too.
MOST_UNDER_WAY: Final = 4


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


class ClockSync:
    """Asks guest agents to set their guests' clocks (Domain.sync_time). An agent may never answer, so each call has its
    own thread and its own connection. A guest is not asked while its last call is under way, and no guest is asked
    while MOST_UNDER_WAY calls are.
    """

    def __init__(self, connect: Callable[[str], Hypervisor] = LibvirtHypervisor) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._under_way: dict[str, threads.Worker] = {}
        self._failed: set[str] = set()

    def request(self, uri: str, uuid: str, name: str) -> None:
        """Ask the agent of a guest that runs, of the libvirt at `uri`. Returns at once."""
        work = threads.Worker(partial(self._sync, uri, uuid, name))
        with self._lock:
            if uuid in self._under_way or len(self._under_way) >= MOST_UNDER_WAY:
                return
            self._under_way[uuid] = work
        try:
            work.start(HypervisorError)
        except HypervisorError as error:
            self._ended(uuid, name, error)

    def wait(self, seconds: float) -> None:
        """Wait for the calls that are under way, for at most so many seconds."""
        deadline = time.monotonic() + seconds
        with self._lock:
            threads_ = list(self._under_way.values())
        for thread in threads_:
            thread.join(max(0.0, deadline - time.monotonic()))

    def forget(self, running: set[str]) -> None:
        """Forget the failures of guests that are gone (`running`: UUIDs)."""
        with self._lock:
            self._failed &= running

    def _sync(self, uri: str, uuid: str, name: str) -> None:
        try:
            self._set_time(uri, uuid)
        except Exception as error:  # noqa: BLE001 - whatever it is, the guest's next call must not wait for it
            self._ended(uuid, name, error)
        else:
            self._ended(uuid, name, None)

    def _set_time(self, uri: str, uuid: str) -> None:
        hypervisor = self._connect(uri)
        try:
            hypervisor.connect()
            hypervisor.by_uuid(uuid).sync_time()  # may never return: this thread is then left behind
        finally:
            hypervisor.close()

    def _ended(self, uuid: str, name: str, error: Exception | None) -> None:
        with self._lock:
            first = error is not None and uuid not in self._failed
            if error is None:
                self._failed.discard(uuid)
            else:
                self._failed.add(uuid)
        if first:
            log.warning(
                "domain %r: its guest agent did not set its clock after a scan (%s); start qemu-guest-agent in the "
                "guest, or set scan.sync_clock: none",
                name,
                error,
            )
        with self._lock:
            self._under_way.pop(uuid, None)
