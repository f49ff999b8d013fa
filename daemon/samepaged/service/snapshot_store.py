"""What is shown: one snapshot, replaced as a whole, so that nobody ever sees halves."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.metrics.collector import SnapshotCollector
    from samepaged.scan.snapshot import Snapshot

__all__ = ["SnapshotStore"]


class SnapshotStore:
    """The snapshot and its collector; `changed` is called after each change. libvirt's event loop, a thread of its own,
    takes guests out.
    """

    def __init__(self, collector: SnapshotCollector, changed: Callable[[], None]) -> None:
        self.collector = collector
        self._changed = changed
        self._lock = threading.Lock()
        self._departed: set[str] = set()

    @property
    def snapshot(self) -> Snapshot:
        """What is shown now."""
        return self.collector.snapshot

    def publish(self, **changes: object) -> None:
        """Show other values of these fields of the snapshot."""
        with self._lock:
            self.collector.snapshot = replace(self.snapshot, **changes)  # type: ignore[arg-type]  # fields by name
        self._changed()

    def gone(self, name: str) -> None:
        """A domain ended: its series end with the next scrape."""
        with self._lock:
            self.collector.snapshot = self.snapshot.without(name)
            self._departed.add(name)
        self._changed()

    def departed(self) -> set[str]:
        """The domains that ended since this was last asked. They are out of the snapshot, even if a scan that ended
        after they did has brought them back.
        """
        with self._lock:
            departed, self._departed = self._departed, set()
            for name in departed:
                self.collector.snapshot = self.snapshot.without(name)
        return departed
