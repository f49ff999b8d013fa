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
from samepaged.log_line import details

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Set as AbstractSet

    from samepaged.drift.ledger import PausedTime
    from samepaged.guard.resume_queue import ResolvedEntry
    from samepaged.guest_id import GuestId
    from samepaged.hypervisor.protocol import Hypervisor
    from samepaged.scan.results import SkippedGuest

__all__ = ["ClockSync", "Clocks", "paused_times"]

log = logging.getLogger(__name__)

# Each agent that does not answer occupies one of libvirtd's workers (max_workers is 20): other clients need them, too.
MAX_AGENT_CALLS: Final = 4


def paused_times(ledger: PauseLedger, guests: Iterable[GuestId]) -> dict[GuestId, PausedTime]:
    """Return the time for which samepaged kept each of the guests suspended."""
    return {guest_id: ledger.paused_time(guest_id.uuid) for guest_id in guests}


class Clocks:
    """The ledger, the agents' calls, and the guests of the latest round of scans."""

    def __init__(self) -> None:
        self.ledger = PauseLedger()
        self.sync = ClockSync()
        self._guests: tuple[GuestId, ...] = ()
        self._over_budget: set[GuestId] = set()

    def round_ended(self, running: Iterable[GuestId], skipped: Iterable[SkippedGuest]) -> None:
        """Record the running guests, and log the start of each wait for the drift budget once."""
        self._guests = tuple(running)
        refused = {
            one.guest_id: one for one in skipped if one.guest_id is not None and one.reason is Reason.DRIFT_BUDGET
        }
        for guest_id in refused.keys() - self._over_budget:
            one = refused[guest_id]
            log.info("scan deferred by the drift budget%s", details(domain=one.name, error=one.message))
        self._over_budget = set(refused)

    def add_settled(self, settled: ResolvedEntry) -> None:
        """Count the observed paused time of a guest with an open journal entry (any thread)."""
        if settled.paused_seconds:
            self.ledger.add(settled.open_entry.entry.uuid, settled.paused_seconds)

    def paused(self) -> dict[GuestId, PausedTime]:
        """The time for which samepaged kept each guest that runs suspended."""
        return paused_times(self.ledger, self._guests)


class ClockSync:
    """Asks guest agents to set their guests' clocks (Domain.sync_time). An agent may never answer, so each call has its
    own thread and its own connection. A guest is skipped while its last call is pending, and every guest while
    MAX_AGENT_CALLS calls are pending.
    """

    def __init__(self, connect: Callable[[str], Hypervisor] = LibvirtHypervisor) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._calls: dict[GuestId, threads.Worker] = {}
        self._failed: set[GuestId] = set()

    def request(self, guest_id: GuestId, name: str) -> None:
        """Send the request to the agent of a running guest. Returns at once."""
        work = threads.Worker(partial(self._sync, guest_id, name))
        with self._lock:
            if guest_id in self._calls or len(self._calls) >= MAX_AGENT_CALLS:
                return
            self._calls[guest_id] = work
        try:
            work.start(HypervisorError)
        except HypervisorError as error:
            self._finish_call(guest_id, name, error)

    def wait(self, seconds: float) -> None:
        """Wait for the calls that are under way, for at most so many seconds."""
        deadline = time.monotonic() + seconds
        with self._lock:
            threads_ = list(self._calls.values())
        for thread in threads_:
            thread.join(max(0.0, deadline - time.monotonic()))

    def forget(self, running: AbstractSet[GuestId]) -> None:
        """Forget the failures of guests that are not `running`."""
        with self._lock:
            self._failed &= running

    def _sync(self, guest_id: GuestId, name: str) -> None:
        try:
            self._set_time(guest_id)
        except Exception as error:  # noqa: BLE001 - whatever it is, the guest's next call must not wait for it
            self._finish_call(guest_id, name, error)
        else:
            self._finish_call(guest_id, name, None)

    def _set_time(self, guest_id: GuestId) -> None:
        hypervisor = self._connect(guest_id.uri)
        try:
            hypervisor.connect()
            hypervisor.by_uuid(guest_id.uuid).sync_time()  # may never return: this thread is then left behind
        finally:
            hypervisor.close()

    def _finish_call(self, guest_id: GuestId, name: str, error: Exception | None) -> None:
        with self._lock:
            first = error is not None and guest_id not in self._failed
            if error is None:
                self._failed.discard(guest_id)
            else:
                self._failed.add(guest_id)
        if first:
            remedy = "start qemu-guest-agent in the guest, or set scan.sync_clock: none"
            log.warning(
                "guest agent did not set the clock after a scan%s", details(domain=name, error=error, remedy=remedy)
            )
        with self._lock:
            self._calls.pop(guest_id, None)
