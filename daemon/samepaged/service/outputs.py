"""Where the snapshot goes: to a web process, into a file, to both, or to neither."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.errors import SamepagedError
from samepaged.metrics.collector import registry
from samepaged.service.documents import Documents
from samepaged.service.textfile import Textfile
from samepaged.web.client import WebClient, WebListener

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.config import Config
    from samepaged.metrics.collector import SnapshotCollector
    from samepaged.web.process import WebProcess

__all__ = ["Outputs"]


class Outputs:
    """Shows what `collector` has, as the configuration says; `web` leads to the web process."""

    def __init__(self, collector: SnapshotCollector, web: WebProcess, config: Config) -> None:
        self._web = web
        self._documents = Documents(registry(collector), lambda: collector.snapshot)
        self._textfile = Textfile(collector)
        self._wanted = _wanted(config)
        self._file = config.export.textfile
        self._publisher = self._publishing(self._wanted)

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

    def changed(self) -> None:
        """There is something new (called in any thread)."""
        publisher = self._publisher
        if publisher is not None:
            publisher.changed()

    def write(self) -> None:
        """Bring the file up to date."""
        self._textfile.write(self._file)

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
