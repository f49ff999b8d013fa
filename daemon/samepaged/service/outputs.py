"""The outputs of the daemon: the web process, the textfile, both, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.errors import SamepagedError
from samepaged.service.documents import DocumentRenderer
from samepaged.service.textfile import Textfile
from samepaged.web.client import WebClient, WebListener

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.config import Config
    from samepaged.service.snapshot_store import SnapshotStore
    from samepaged.web.process import WebProcess

__all__ = ["Outputs"]


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
