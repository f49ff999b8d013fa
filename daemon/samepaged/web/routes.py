"""Replies to requests: the scanner's documents while the scanner is connected."""

from __future__ import annotations

import asyncio
import gzip
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from samepaged.web.auth import Busy
from samepaged.web.request import Reply, Request, choose, takes_gzip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from samepaged.web.config_reload import ActiveConfig
    from samepaged.web.protocol import Document

__all__ = ["Routes"]

STALE_SECONDS: Final = 60.0
"""The scanner sends a message every five seconds, also during a scan."""

MIN_COMPRESSED_BYTES: Final = 512
LEVEL: Final = 5
HEALTHY: Final = "/-/healthy"
NOSNIFF: Final = ("X-Content-Type-Options", "nosniff")
# The status page has a stricter policy in its HTML. Both apply, and that one remains if the configuration overrides
# this header.
POLICY: Final = (
    "Content-Security-Policy",
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
_packing: Final = ThreadPoolExecutor(1, "gzip")


class _Page:
    """A document, and its gzip-compressed form, created at the first request for it."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._packed: asyncio.Future[bytes] | None = None

    async def packed(self) -> bytes:
        if self._packed is None:
            loop = asyncio.get_running_loop()
            try:
                self._packed = loop.run_in_executor(_packing, gzip.compress, self.document.body, LEVEL)
            except RuntimeError:  # the host cannot start another thread
                return gzip.compress(self.document.body, LEVEL)
        return await asyncio.shield(self._packed)  # a client's disconnection must not cancel it for other clients


class Routes:
    """Serves the documents. If users are configured, every path needs a password."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pages: dict[str, tuple[_Page, ...]] = {}
        self._last_message: float | None = None

    def show(self, documents: Iterable[Document]) -> None:
        """Record that the scanner is alive, and replace the documents with the same paths by these."""
        self._last_message = self._clock()
        paths: dict[str, list[_Page]] = {}
        for document in documents:
            paths.setdefault(document.path, []).append(_Page(document))
        self._pages |= {path: tuple(pages) for path, pages in paths.items()}

    def scanner_left(self) -> None:
        """Remove all documents after the feed is closed."""
        self._last_message = None
        self._pages = {}

    @property
    def stale(self) -> bool:
        """Whether the scanner is disconnected, or has not sent a message for more than STALE_SECONDS."""
        return self._last_message is None or self._clock() - self._last_message > STALE_SECONDS

    async def reply(self, request: Request, now: ActiveConfig) -> Reply:
        """Return the reply to `request` with the active configuration `now`."""
        try:
            reply = await self._checked_reply(request, now)
        except Busy:
            reply = Reply.line(HTTPStatus.SERVICE_UNAVAILABLE, "too many passwords to check; try again later")
        return reply.with_headers({**dict((NOSNIFF, POLICY)), **now.loaded.config.http_server_config.headers})

    async def _checked_reply(self, request: Request, now: ActiveConfig) -> Reply:
        if not now.limit.admits():
            return Reply.line(HTTPStatus.TOO_MANY_REQUESTS, "429 Too Many Requests")
        if not await now.gate.admits(request.authorization):
            challenge = ("WWW-Authenticate", 'Basic realm="samepaged", charset="UTF-8"')
            return Reply.line(HTTPStatus.UNAUTHORIZED, "401 Unauthorized", challenge)
        if request.method not in {"GET", "HEAD"}:
            return Reply.line(HTTPStatus.METHOD_NOT_ALLOWED, "use GET or HEAD", ("Allow", "GET, HEAD"))
        if request.path == HEALTHY:
            return Reply.line(HTTPStatus.OK, "samepaged is healthy")
        if self.stale:
            return Reply.line(HTTPStatus.SERVICE_UNAVAILABLE, "samepaged's scanner is not connected")
        pages = self._pages.get(request.path)
        if pages is None:
            return Reply.line(HTTPStatus.NOT_FOUND, f"not found; there are {', '.join([*self._pages, HEALTHY])}")
        return await _negotiated_reply(pages, request)


async def _negotiated_reply(pages: tuple[_Page, ...], request: Request) -> Reply:
    page = pages[choose(request.accept, [page.document.media_type for page in pages])]
    document = page.document
    headers = [("Vary", "Accept, Accept-Encoding" if len(pages) > 1 else "Accept-Encoding")]
    body = document.body
    if len(body) >= MIN_COMPRESSED_BYTES and takes_gzip(request.accept_encoding):
        body = await page.packed()
        headers.append(("Content-Encoding", "gzip"))
    return Reply(HTTPStatus(document.status), body, document.media_type, tuple(headers))
