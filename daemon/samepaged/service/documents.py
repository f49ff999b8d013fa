"""What the web process shows: the snapshot, in all the forms that it is asked for."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from samepaged.export.document import document
from samepaged.export.metrics import render
from samepaged.export.page import INDEX
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
        self._failed = False
        self._json = _line(
            "/api/v1/snapshot", HTTPStatus.SERVICE_UNAVAILABLE, "samepaged has not finished its first scan"
        )

    def __call__(self) -> list[Document]:
        """All documents. One that cannot be made is replaced by a line that says so, and the log says why."""
        latest = self._snapshot().latest
        made = [Document("/", HTML, INDEX), _readiness(ready=latest is not None)]
        try:
            made += [
                Document("/metrics", TEXT, render(self._registry, openmetrics=False)),
                Document("/metrics", OPENMETRICS, render(self._registry, openmetrics=True)),
                self._last_scan(latest),
            ]
        except Exception:
            if not self._failed:
                log.exception("the metrics could not be made; please report it")
            self._failed = True
            text = "the metrics could not be made; the log says why"
            made += [_line(path, HTTPStatus.INTERNAL_SERVER_ERROR, text) for path in ("/metrics", self._json.path)]
        else:
            self._failed = False
        return [_of_bounded_size(one) for one in made]

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
