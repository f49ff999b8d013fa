"""Metrics file for node_exporter's textfile collector, for hosts without an open port."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from samepaged.atomic_write import whole_file
from samepaged.log_line import details
from samepaged.metrics.exposition import families, render

if TYPE_CHECKING:
    from pathlib import Path

    from samepaged.scan.snapshot import Snapshot

__all__ = ["Textfile"]

log = logging.getLogger(__name__)


class Textfile:
    """Writes each new snapshot to a file, in one step: node_exporter never reads half a file. A failure is logged once,
    and the next call repeats the write. The file leaves out samepaged's own process_ and python_ metrics, because
    node_exporter exports its own under these names.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._written: Snapshot | None = None
        self._complaint = ""

    def write(self, path: Path | None, snapshot: Snapshot) -> None:
        """Write `snapshot` to the file `path`, if it is new; None writes nothing. A file at the path before is
        removed.
        """
        if path != self._path:
            self.remove()
            self._path = path
        if path is None or snapshot is self._written:
            return
        try:
            # Not synced: each start writes the file again. node_exporter ignores the temporary file beside it.
            with whole_file(path, 0o644, lasting=False) as beside:
                beside.write_bytes(render(families(snapshot), openmetrics=False))
        except OSError as error:
            remedy = "grant samepaged write access to its directory, or set export.textfile"
            complaint = details(path=path, error=error.strerror, remedy=remedy)
            if complaint != self._complaint:
                log.warning("textfile not written%s", complaint)
            self._complaint = complaint
        else:
            self._written, self._complaint = snapshot, ""

    def remove(self) -> None:
        """Remove the file, so that no stale metrics remain."""
        if self._path is not None and self._written is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._written = None
