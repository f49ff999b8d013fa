"""The metrics in a file, for node_exporter's collector `textfile`, where no port may be opened."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from samepaged.atomic_write import whole_file
from samepaged.metrics.collector import SnapshotCollector, render

if TYPE_CHECKING:
    from pathlib import Path

    from samepaged.scan.snapshot import Snapshot

__all__ = ["Textfile"]

log = logging.getLogger(__name__)


class Textfile:
    """Writes each new snapshot into a file, in one step: a collector never reads halves. Where that fails, the log says
    so once, and it is tried again with the next. samepaged's own process_ and python_ metrics are left out:
    node_exporter has such of its own.
    """

    def __init__(self, collector: SnapshotCollector) -> None:
        self._collector = collector
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        self._path: Path | None = None
        self._written: Snapshot | None = None
        self._complaint = ""

    def write(self, path: Path | None) -> None:
        """Write what there is to the file `path`, if that is new; None writes nothing. A file that was written to
        another path is removed.
        """
        if path != self._path:
            self.remove()
            self._path = path
        shown = self._collector.snapshot
        if path is None or shown is self._written:
            return
        try:
            # It is made anew at each start, and the collector does not look at what is beside it.
            with whole_file(path, 0o644, lasting=False) as beside:
                beside.write_bytes(render(self._registry, openmetrics=False))
        except OSError as error:
            complaint = (
                f"{path} cannot be written ({error.strerror}); let samepaged write there, or set export.textfile"
            )
            if complaint != self._complaint:
                log.warning("%s", complaint)
            self._complaint = complaint
        else:
            self._written, self._complaint = shown, ""

    def remove(self) -> None:
        """Remove the file: who stops has nothing to say any more."""
        if self._path is not None and self._written is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._written = None
