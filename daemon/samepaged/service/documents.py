"""What the web process shows: the snapshot, in all the forms that it is asked for."""

from __future__ import annotations

import json
import logging
import platform
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from samepaged.export.document import document
from samepaged.export.metrics import render
from samepaged.export.names import visible
from samepaged.export.page import Page
from samepaged.web.feed import Document

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from samepaged.export.snapshot import HostScan, Snapshot

__all__ = ["Documents"]

log = logging.getLogger(__name__)

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json"
# Five of them in one frame are within what the web process takes (web/feed.py).
LARGEST: Final = 12 << 20


class Documents:
    """Makes the documents of the moment. `snapshot` gives what is known, `registry` the metrics of the same."""

    def __init__(self, registry: CollectorRegistry, snapshot: Callable[[], Snapshot]) -> None:
        self._registry = registry
        self._snapshot = snapshot
        self._scan: HostScan | None = None
        self._page = Page(visible(platform.node()))
        self._failed: set[str] = set()
        self._json = _line(
            "/api/v1/snapshot", HTTPStatus.SERVICE_UNAVAILABLE, "samepaged has not finished its first scan"
        )

    def __call__(self) -> list[Document]:
        """All documents. One that cannot be made is replaced by a line that says so, and the log says why."""
        snapshot = self._snapshot()
        made = [
            *self._tried("page", ("/",), lambda: [Document("/", HTML, self._page(snapshot, time.time()))]),
            _readiness(ready=snapshot.latest is not None),
            *self._tried("metrics", ("/metrics", self._json.path), lambda: self._metrics(snapshot.latest)),
        ]
        return [_of_bounded_size(one) for one in made]

    def _tried(self, what: str, paths: tuple[str, ...], make: Callable[[], list[Document]]) -> list[Document]:
        try:
            made = make()
        except Exception:
            if what not in self._failed:
                log.exception("the %s could not be made; please report it", what)
            self._failed.add(what)
            text = f"the {what} could not be made; the log says why"
            return [_line(path, HTTPStatus.INTERNAL_SERVER_ERROR, text) for path in paths]
        self._failed.discard(what)
        return made

    def _metrics(self, latest: HostScan | None) -> list[Document]:
        return [
            Document("/metrics", TEXT, render(self._registry, openmetrics=False)),
            Document("/metrics", OPENMETRICS, render(self._registry, openmetrics=True)),
            self._last_scan(latest),
        ]

    def _last_scan(self, latest: HostScan | None) -> Document:
        if latest is not None and latest is not self._scan:
            # In pieces: json.dumps would hold the interpreter for the whole of it, and a guest may be waiting for us.
            text = "".join(json.JSONEncoder(separators=(",", ":")).iterencode(document(latest)))
            self._json = Document(self._json.path, JSON, text.encode())
            self._scan = latest
        return self._json


def _readiness(*, ready: bool) -> Document:
    if ready:
        return _line("/-/ready", HTTPStatus.OK, "samepaged is ready")
    return _line("/-/ready", HTTPStatus.SERVICE_UNAVAILABLE, "samepaged has not finished its first scan")


def _line(path: str, status: HTTPStatus, text: str) -> Document:
    return Document(path, PLAIN, f"{text}\n".encode(), status)


def _of_bounded_size(made: Document) -> Document:
    if len(made.body) <= LARGEST:
        return made
    text = f"this takes {len(made.body)} bytes, which is too much to be served; ask `samepaged scan --json`"
    return _line(made.path, HTTPStatus.INTERNAL_SERVER_ERROR, text)
