"""The outputs of the daemon: the web process, the textfile, both, or none."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from samepaged.atomic_write import whole_file
from samepaged.errors import SamepagedError
from samepaged.metrics.exposition import families, render
from samepaged.service.documents import DocumentRenderer
from samepaged.web.client import WebClient, WebListener

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from samepaged.config import Config
    from samepaged.scan.snapshot import Snapshot
    from samepaged.service.snapshot_store import SnapshotStore
    from samepaged.web.process import WebProcess

__all__ = ["Outputs", "Textfile"]

log = logging.getLogger(__name__)


class Outputs:
    """Exports the snapshots of `store`, as configured; `web` connects to the web process."""

    def __init__(self, store: SnapshotStore, web: WebProcess, config: Config) -> None:
        self._web = web
        self._store = store
        self._documents = DocumentRenderer(lambda: store.snapshot)
        self._textfile = Textfile()
        self._wanted = _wanted(config)
        self._file = config.export.textfile
        self._publisher = self._publishing(self._wanted)
        store.listen(self._changed)

    def _publishing(self, wanted: WebListener | None) -> WebClient | None:
        return None if wanted is None else WebClient(self._web, self._documents, wanted)

    def start(self, stop: Callable[[], bool]) -> None:
        """Begin. Raises SamepagedError where the address cannot be served."""
        if self._publisher is not None:
            self._publisher.start(stop)

    def change(self, config: Config, stop: Callable[[], bool]) -> None:
        """Show it as another configuration says. Raises SamepagedError where that cannot be: all stays as it is."""
        wanted, publisher = _wanted(config), self._publisher
        if wanted != self._wanted:
            if publisher is None:
                publisher = self._publishing(wanted)
                if publisher is not None:
                    _start(publisher, stop)
                self._publisher = publisher
            elif wanted is None:
                self._publisher = None
                publisher.stop()
            else:
                publisher.change(wanted, stop)
        self._wanted, self._file = wanted, config.export.textfile

    def _changed(self) -> None:
        """Have the documents of a new snapshot made (called in any thread)."""
        publisher = self._publisher
        if publisher is not None:
            publisher.changed()

    def write(self) -> None:
        """Write the textfile, if the snapshot is new."""
        self._textfile.write(self._file, self._store.snapshot)

    def stop(self) -> None:
        """Show nothing any more."""
        if self._publisher is not None:
            self._publisher.stop()
        self._textfile.remove()


def _start(publisher: WebClient, stop: Callable[[], bool]) -> None:
    try:
        publisher.start(stop)
    except SamepagedError:
        publisher.stop()
        raise


def _wanted(config: Config) -> WebListener | None:
    """What the web process is to be told; None where there is to be none."""
    address = config.export.address
    return None if address is None else WebListener(*address, config.export.web_config_file)


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
            # A crash may lose it, as each start writes it anew. node_exporter ignores the temporary file beside it.
            with whole_file(path, 0o644, lasting=False) as beside:
                beside.write_bytes(render(families(snapshot), openmetrics=False))
        except OSError as error:
            complaint = (
                f"{path} cannot be written ({error.strerror}); let samepaged write there, or set export.textfile"
            )
            if complaint != self._complaint:
                log.warning("%s", complaint)
            self._complaint = complaint
        else:
            self._written, self._complaint = snapshot, ""

    def remove(self) -> None:
        """Remove the file, so that no stale metrics remain."""
        if self._path is not None and self._written is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._written = None
