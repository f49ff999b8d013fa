"""The HTTP server: metrics, health, and an index. It knows what it serves only through two callables, `exposition` and
`ready`, so that it can run in a process of its own.
"""

from __future__ import annotations

import gzip
import logging
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from samepaged.export.listener import Listener, ResolvedAddress, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Exposition", "Server"]

_log = logging.getLogger(__name__)

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_PLAIN: Final = "text/plain; charset=utf-8"
_HTML: Final = "text/html; charset=utf-8"
_INDEX: Final = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>samepaged</title></head><body>
<h1>samepaged</h1>
<p><a href="metrics">metrics</a>, <a href="-/healthy">healthy</a>, <a href="-/ready">ready</a></p>
</body></html>
"""
_POLL_SECONDS: Final = 0.5  # how late a deadline may be noticed


class Exposition(Protocol):
    """What gives the metrics of this moment."""

    def __call__(self, *, openmetrics: bool) -> bytes:
        """In OpenMetrics 1.0.0, or in the text format 0.0.4."""


class Server:
    """Serves `/metrics`, `/-/healthy`, `/-/ready` (503 until `ready()`) and `/` on `listen` (host, port; port 0: any).

    At most `workers` connections are served at once. A connection carries one request and lives for `deadline`
    seconds at most; when all workers are taken, the oldest that still owes its request goes.
    """

    def __init__(
        self,
        listen: tuple[str, int],
        exposition: Exposition,
        ready: Callable[[], bool],
        *,
        workers: int = 8,
        deadline: float = 5.0,
    ) -> None:
        self._listen = listen
        self._exposition = exposition
        self._ready = ready
        self._workers = workers
        self._deadline = deadline
        self._listener: _Site | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that are listened on; before `start`, those asked for."""
        if self._listener is None:
            return self._listen
        host, port = self._listener.socket.getsockname()[:2]
        return host, port

    def start(self) -> None:
        """Listen, and serve from threads. Raises SamepagedError where the address cannot be had."""
        self._listener = _Site(
            resolve(self._listen),
            exposition=self._exposition,
            ready=self._ready,
            workers=self._workers,
            deadline=self._deadline,
        )
        poll = min(_POLL_SECONDS, self._deadline)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(poll,), name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close the listening socket and every connection. Nothing happens if it is not started."""
        if self._listener is None or self._thread is None:
            return
        self._listener.stop()
        self._thread.join()
        self._listener = self._thread = None


class _Site(Listener):
    """The listener of the pages: what a handler finds as `server`."""

    def __init__(
        self,
        address: ResolvedAddress,
        *,
        exposition: Exposition,
        ready: Callable[[], bool],
        workers: int,
        deadline: float,
    ) -> None:
        self.exposition = exposition
        self.ready = ready
        super().__init__(address, _Handler, workers=workers, deadline=deadline)


class _Handler(BaseHTTPRequestHandler):
    server: _Site
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # so that a malformed request line, too, is answered with a status line
    disable_nagle_algorithm = True

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self.server.asked(self.connection)
        if self.command in ("GET", "HEAD"):
            return True
        self._reply(HTTPStatus.METHOD_NOT_ALLOWED, b"use GET or HEAD\n", Allow="GET, HEAD")
        return False

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._metrics()
        elif path == "/-/healthy":
            self._reply(HTTPStatus.OK, b"samepaged is healthy\n")
        elif path == "/-/ready":
            if self.server.ready():
                self._reply(HTTPStatus.OK, b"samepaged is ready\n")
            else:
                self._reply(HTTPStatus.SERVICE_UNAVAILABLE, b"samepaged has not finished its first scan\n")
        elif path == "/":
            self._reply(HTTPStatus.OK, _INDEX, _HTML)
        else:
            self._reply(HTTPStatus.NOT_FOUND, b"not found; there are /metrics, /-/healthy and /-/ready\n")

    do_HEAD = do_GET  # noqa: N815 - http.server looks for this name; `_reply` leaves the body out

    def _metrics(self) -> None:
        accept = ",".join(self.headers.get_all("Accept", ()))
        text = max(_quality(accept, kind) for kind in ("text/plain", "text/*", "*/*"))
        wished = _quality(accept, "application/openmetrics-text")
        openmetrics = wished > 0 and wished >= text
        try:
            body = self.server.exposition(openmetrics=openmetrics)
        except Exception:  # noqa: BLE001 - logged, and answered: the scraper must learn of any failure
            _log.exception("the metrics could not be rendered")
            self._reply(HTTPStatus.INTERNAL_SERVER_ERROR, b"the metrics could not be rendered; the log says why\n")
            return
        headers = {"Vary": "Accept, Accept-Encoding"}
        if _quality(",".join(self.headers.get_all("Accept-Encoding", ())), "gzip") > 0:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, compresslevel=5)
        self._reply(HTTPStatus.OK, body, _OPENMETRICS if openmetrics else _TEXT, **headers)

    def _reply(self, status: HTTPStatus, body: bytes, content_type: str = _PLAIN, **headers: str) -> None:
        # Not send_response, which names the server's and Python's version.
        self.send_response_only(status)
        self.send_header("Date", self.date_time_string())
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server answers itself, without its page that repeats the request."""
        del message, explain
        status = HTTPStatus(code)
        self._reply(status, f"{status.value} {status.phrase}\n".encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - http.server's signature
        _log.debug("%s: %r", self.address_string(), format % args)


def _quality(header: str, name: str) -> float:
    """The highest q that an Accept or Accept-Encoding header gives to `name`, 0 if it does not name it."""
    best = 0.0
    for item in header.split(","):
        value, *parameters = (part.strip().lower() for part in item.split(";"))
        if value == name:
            given = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
            best = max(best, _number(given[0]) if given else 1.0)
    return best


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
