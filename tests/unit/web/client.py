"""A web server in this process, with correct and faulty clients."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
from typing import TYPE_CHECKING, TypeVar

from samepaged.web.config_reload import ReloadingConfig
from samepaged.web.protocol import Document
from samepaged.web.routes import Routes
from samepaged.web.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from samepaged.web.server import Deadlines

T = TypeVar("T")
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PAGES = (
    Document("/", "text/html; charset=utf-8", b"<html>"),
    Document("/metrics", TEXT, b"text\n"),
    Document("/metrics", OPENMETRICS, b"openmetrics\n# EOF\n"),
    Document("/-/ready", "text/plain; charset=utf-8", b"not yet\n", 503),
)


class Running:
    """A server in its own thread; `do` runs a function there."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server, site: Routes) -> None:
        self._loop = loop
        self.server = server
        self.site = site
        self.address = self.do(lambda: server.listen("127.0.0.1", 0))

    def do(self, what: Callable[[], T]) -> T:
        async def there() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(there(), self._loop).result(30)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)

    def raw(self, request: bytes) -> bytes:
        """Return the server's complete response to these bytes, until it closes the connection."""
        with self.connect() as client:
            client.sendall(request)
            return read_all(client)

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        client = http.client.HTTPConnection(*self.address, timeout=30)
        with contextlib.closing(client):
            client.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = client.getresponse()
            return answer, answer.read()


def read_all(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65536):
            received += more
    return received


@contextlib.contextmanager
def serving(
    pages: Sequence[Document] = PAGES,
    *,
    config: Path | None = None,
    most: int = 16,
    deadlines: Deadlines | None = None,
) -> Iterator[Running]:
    """Start a server with these pages and a connected scanner."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        site = Routes()
        running = Running(loop, Server(site, ReloadingConfig(config), most, deadlines), site)
        running.do(lambda: site.show(pages))
        try:
            yield running
        finally:
            running.do(running.server.close)
            asyncio.run_coroutine_threadsafe(_everybody_gone(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _everybody_gone() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others)
