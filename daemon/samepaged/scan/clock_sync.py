"""Setting a guest's clock right after a scan, through its guest agent."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from samepaged import threads
from samepaged.errors import HypervisorError
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from samepaged.guest_id import GuestId
    from samepaged.hypervisor.protocol import Hypervisor

__all__ = ["ClockSync"]

log = logging.getLogger(__name__)

# Each agent that does not answer occupies one of libvirtd's workers (max_workers is 20): other clients need them, too.
MOST_UNDER_WAY: Final = 4


class ClockSync:
    """Asks guest agents to set their guests' clocks (Domain.sync_time). An agent may never
    answer, so each call has its own thread and its own connection. A guest is not asked while its last call is under
    way, and no guest is asked while MOST_UNDER_WAY calls are.
    """

    def __init__(self, connect: Callable[[str], Hypervisor] = LibvirtHypervisor) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._under_way: dict[GuestId, threads.Worker] = {}
        self._failed: set[GuestId] = set()

    def request(self, guest_id: GuestId, name: str) -> None:
        """Ask the agent of a guest that runs. Returns at once."""
        work = threads.Worker(partial(self._sync, guest_id, name))
        with self._lock:
            if guest_id in self._under_way or len(self._under_way) >= MOST_UNDER_WAY:
                return
            self._under_way[guest_id] = work
        try:
            work.start(HypervisorError)
        except HypervisorError as error:
            self._ended(guest_id, name, error)

    def wait(self, seconds: float) -> None:
        """Wait for the calls that are under way, for at most so many seconds."""
        deadline = time.monotonic() + seconds
        with self._lock:
            threads_ = list(self._under_way.values())
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
            self._ended(guest_id, name, error)
        else:
            self._ended(guest_id, name, None)

    def _set_time(self, guest_id: GuestId) -> None:
        hypervisor = self._connect(guest_id.uri)
        try:
            hypervisor.connect()
            hypervisor.by_uuid(guest_id.uuid).sync_time()  # may never return: this thread is then left behind
        finally:
            hypervisor.close()

    def _ended(self, guest_id: GuestId, name: str, error: Exception | None) -> None:
        with self._lock:
            first = error is not None and guest_id not in self._failed
            if error is None:
                self._failed.discard(guest_id)
            else:
                self._failed.add(guest_id)
        if first:
            log.warning(
                "domain %r: its guest agent did not set its clock after a scan (%s); start qemu-guest-agent in the "
                "guest, or set scan.sync_clock: none",
                name,
                error,
            )
        with self._lock:
            self._under_way.pop(guest_id, None)
