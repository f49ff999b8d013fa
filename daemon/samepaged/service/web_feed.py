"""Feed of the web process: documents of the snapshot in each form that clients request."""

from __future__ import annotations

import json
import logging
import platform
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from samepaged.attribution.document import attribution_document
from samepaged.errors import SamepagedError
from samepaged.escape import printable
from samepaged.formatting import rfc3339
from samepaged.log_line import details
from samepaged.metrics.exposition import MetricsText
from samepaged.page import Page
from samepaged.report.scan_json import document
from samepaged.web.client import WebClient, WebListener
from samepaged.web.protocol import Document, MediaType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from samepaged.config import Config
    from samepaged.drift.ledger import PausedTime
    from samepaged.guest_id import GuestId
    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import GuestAttribution, Snapshot, SnapshotStore
    from samepaged.web.process import WebProcess

__all__ = ["DocumentRenderer", "WebFeed"]

log = logging.getLogger(__name__)

SOURCES: Final = "/api/v1/sources"
# Five of them and one of MAX_ATTRIBUTION_BYTES fit into one frame of the web process (web/protocol.py).
MAX_DOCUMENT_BYTES: Final = 12 << 20
MAX_ATTRIBUTION_BYTES: Final = 4 << 20
# The page shows ages, such as "3 min ago", so it is rendered again after this time.
PAGE_SECONDS: Final = 60.0


class WebFeed:
    """Feeds the web process with the snapshots of `store`, if the configuration has an address to listen on. `web`
    connects to the web process.
    """

    def __init__(self, store: SnapshotStore, web: WebProcess, config: Config) -> None:
        self._web = web
        self._documents = DocumentRenderer(lambda: store.snapshot)
        self._listener = _listener(config)
        self._client = self._new_client(self._listener)
        store.listen(self._notify_client)

    def start(self, stop: Callable[[], bool]) -> None:
        """Start the feed. Raises SamepagedError if the web process cannot listen on the address."""
        if self._client is not None:
            self._client.start(stop)

    def change(self, config: Config, stop: Callable[[], bool]) -> None:
        """Apply a configuration. Raises SamepagedError if the web process refuses it: the feed does not change then."""
        listener, client = _listener(config), self._client
        if listener != self._listener:
            if client is None:
                client = self._new_client(listener)
                if client is not None:
                    _start(client, stop)
                self._client = client
            elif listener is None:
                self._client = None
                client.stop()
            else:
                client.change(listener, stop)
        self._listener = listener

    def stop(self) -> None:
        """Stop the feed."""
        if self._client is not None:
            self._client.stop()

    def _new_client(self, listener: WebListener | None) -> WebClient | None:
        return None if listener is None else WebClient(self._web, self._documents, listener)

    def _notify_client(self) -> None:
        """Have the documents of a new snapshot rendered (called in any thread)."""
        client = self._client
        if client is not None:
            client.changed()


def _start(client: WebClient, stop: Callable[[], bool]) -> None:
    try:
        client.start(stop)
    except SamepagedError:
        client.stop()
        raise


def _listener(config: Config) -> WebListener | None:
    """The settings of the web process; None without a configured address."""
    address = config.export.address
    return None if address is None else WebListener(*address, config.export.web_config_file)


class DocumentRenderer:
    """Renders the documents of the current snapshot, which `snapshot` returns. A document is rendered again when its
    part of the snapshot has changed; the page also after a minute, because of its ages, and the metrics of this process
    each time. `clock` is in seconds of the Unix epoch.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], clock: Callable[[], float] = time.time) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._metrics_text = MetricsText()
        self._scan: HostScan | None = None
        self._paused: Mapping[str, PausedTime] = {}
        self._attributions: Mapping[GuestId, GuestAttribution] | None = None
        self._sources_made = Document(SOURCES, MediaType.JSON, b"")
        self._page = Page(printable(platform.node()))
        self._page_made: tuple[Snapshot, float, Document] | None = None
        self._failed: set[str] = set()
        self._json = _text_document(
            "/api/v1/snapshot", HTTPStatus.SERVICE_UNAVAILABLE, "samepaged has not finished its first scan"
        )

    def __call__(self) -> list[Document]:
        """All documents. A line of text replaces a document that cannot be rendered; the error is in the log."""
        snapshot = self._snapshot()
        made = [
            *self._render_or_error("page", ("/",), lambda: [self._status_page(snapshot)]),
            _readiness(ready=snapshot.latest is not None),
            *self._render_or_error("metrics", ("/metrics", self._json.path), lambda: self._metrics(snapshot)),
            *self._render_or_error("sources", (SOURCES,), lambda: [self._attribution_document(snapshot.attributions)]),
        ]
        return [_bounded_document(one) for one in made]

    def _render_or_error(self, what: str, paths: tuple[str, ...], make: Callable[[], list[Document]]) -> list[Document]:
        try:
            made = make()
        except Exception as error:
            if what not in self._failed:
                if isinstance(error, MemoryError | OSError):
                    cause, remedy = str(error) or "out of memory", "free memory, or raise MemoryMax="
                    log.error("document not rendered%s", details(document=what, error=cause, remedy=remedy))  # noqa: TRY400 - no traceback
                else:
                    log.exception("document not rendered, please report it%s", details(document=what))
            self._failed.add(what)
            text = f"samepaged could not render the {what}; see its log"
            return [_text_document(path, HTTPStatus.INTERNAL_SERVER_ERROR, text) for path in paths]
        self._failed.discard(what)
        return made

    def _status_page(self, snapshot: Snapshot) -> Document:
        now = self._clock()
        if self._page_made is not None:
            shown, made, page = self._page_made
            if shown is snapshot and abs(now - made) < PAGE_SECONDS:
                return page
        page = Document("/", MediaType.HTML, self._page(snapshot, now))
        self._page_made = snapshot, now, page
        return page

    def _metrics(self, snapshot: Snapshot) -> list[Document]:
        text, openmetrics = self._metrics_text(snapshot)
        return [
            Document("/metrics", MediaType.TEXT, text),
            Document("/metrics", MediaType.OPENMETRICS, openmetrics),
            self._last_scan(snapshot.latest, snapshot.by_name(snapshot.paused)),
        ]

    def _last_scan(self, latest: HostScan | None, paused: Mapping[str, PausedTime]) -> Document:
        if latest is not None and (latest is not self._scan or paused != self._paused):
            self._json = Document(self._json.path, MediaType.JSON, _compact_json(document(latest, paused)))
            self._scan, self._paused = latest, paused
        return self._json

    def _attribution_document(self, sources: Mapping[GuestId, GuestAttribution]) -> Document:
        if not sources:
            text = "no guest has page attribution yet; see `sources` in the configuration"
            return _text_document(SOURCES, HTTPStatus.NOT_FOUND, text)
        if sources is not self._attributions:
            domains = [
                attribution_document(one.report) | {"scanned": rfc3339(one.scanned_at)} for one in sources.values()
            ]
            self._sources_made = Document(SOURCES, MediaType.JSON, _compact_json({"domains": domains}))
            self._attributions = sources
        return self._sources_made


def _compact_json(value: object) -> bytes:
    # In pieces: json.dumps would hold the interpreter lock for the whole document, and a guest may be suspended.
    return "".join(json.JSONEncoder(separators=(",", ":")).iterencode(value)).encode()


def _readiness(*, ready: bool) -> Document:
    if ready:
        return _text_document("/-/ready", HTTPStatus.OK, "samepaged is ready")
    return _text_document("/-/ready", HTTPStatus.SERVICE_UNAVAILABLE, "samepaged has not finished its first scan")


def _text_document(path: str, status: HTTPStatus, text: str) -> Document:
    return Document(path, MediaType.PLAIN, f"{text}\n".encode(), status)


def _bounded_document(made: Document) -> Document:
    if len(made.body) <= (MAX_ATTRIBUTION_BYTES if made.path == SOURCES else MAX_DOCUMENT_BYTES):
        return made
    command = "sources" if made.path == SOURCES else "scan"
    text = f"the document has {len(made.body)} bytes, which is too large to serve; run `samepaged {command} --json`"
    return _text_document(made.path, HTTPStatus.INTERNAL_SERVER_ERROR, text)
