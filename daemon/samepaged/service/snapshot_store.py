"""The current snapshot: replaced as a whole, so that readers in any thread see a consistent one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.guest_id import GuestId
    from samepaged.scan.snapshot import Snapshot

__all__ = ["SnapshotStore"]


class SnapshotStore:
    """Holds the current snapshot. Any thread may read and update it; libvirt's event loop removes guests."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._departed: set[GuestId] = set()

    @property
    def snapshot(self) -> Snapshot:
        """The current snapshot."""
        return self._snapshot

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change, in the thread that makes it."""
        self._listeners.append(changed)

    def update(self, change: Callable[[Snapshot], Snapshot]) -> None:
        """Replace the snapshot by `change` of it. `change` runs under a lock: it must be short."""
        with self._lock:
            self._snapshot = change(self._snapshot)
        self._notify()

    def remove(self, guest_id: GuestId) -> None:
        """Remove a guest that ended."""
        with self._lock:
            self._snapshot = self._snapshot.without(guest_id)
            self._departed.add(guest_id)
        self._notify()

    def take_departed(self) -> set[GuestId]:
        """The guests removed since the previous call. This removes them again, because a scan that ended after a
        guest did restores its series.
        """
        with self._lock:
            departed, self._departed = self._departed, set()
            for guest_id in departed:
                self._snapshot = self._snapshot.without(guest_id)
        if departed:
            self._notify()
        return departed

    def _notify(self) -> None:
        for changed in self._listeners:
            changed()
