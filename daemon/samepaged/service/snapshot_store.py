"""The current snapshot: replaced as a whole, so that readers in any thread see a consistent one."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.scan.snapshot import Snapshot

__all__ = ["SnapshotStore"]


class SnapshotStore:
    """Holds the current snapshot. Any thread may read and update it; libvirt's event loop removes domains."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._listeners: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._departed: set[str] = set()

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

    def remove(self, name: str) -> None:
        """Remove the domain `name`, which ended."""
        with self._lock:
            self._snapshot = self._snapshot.without(name)
            self._departed.add(name)
        self._notify()

    def take_departed(self) -> set[str]:
        """The domains removed since the previous call. This removes them again, because a scan that ended after a
        domain did restores its series.
        """
        with self._lock:
            departed, self._departed = self._departed, set()
            for name in departed:
                self._snapshot = self._snapshot.without(name)
        if departed:
            self._notify()
        return departed

    def _notify(self) -> None:
        for changed in self._listeners:
            changed()
