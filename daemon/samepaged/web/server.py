"""The HTTP server: the listener, and each connection from its first byte to its last: a handshake, requests and their
replies, each with its deadline.

It accepts every client. If there are too many connections, it closes the one with the longest wait for its client.
Bytes go straight to and from the socket, plain or encrypted. asyncio's own transports buffer the data that a slow
client does not take, and a quarter of a MiB for each encrypted connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from samepaged.errors import SamepagedError
from samepaged.log_line import details
from samepaged.web.address import Address, bind, resolve
from samepaged.web.request import Parser, Refusal, Reply
from samepaged.web.tls import admitted

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.web.config_reload import ReloadingConfig
    from samepaged.web.routes import Routes

__all__ = ["Connection", "Deadlines", "PlainStream", "Server", "Stream", "TlsStream", "hang_up", "max_connections"]

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 512
# Connections accepted before other tasks run. Connections that are closed in their favour are closed only then.
ACCEPT_BATCH: Final = 8
# Descriptors other than connections: standard streams, the feed, epoll and its pipe, two listeners, certificates.
RESERVED_DESCRIPTORS: Final = 24 + ACCEPT_BATCH
GRACE_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.05
EXHAUSTION_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def max_connections() -> int:
    """Maximum number of connections under this process's limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else max(4, min(MAX_CONNECTIONS, soft - RESERVED_DESCRIPTORS))
    )


class Server:
    """Listens on one address at a time and serves `site`, with at most `most` connections."""

    def __init__(self, site: Routes, config: ReloadingConfig, most: int, deadlines: Deadlines | None = None) -> None:
        self.config = config
        self._site = site
        self._max_connections = most
        self._deadlines = deadlines or Deadlines()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._open: dict[asyncio.Task[None], Connection] = {}

    @property
    def address(self) -> tuple[str, int] | None:
        """The host and port of the listener, if any."""
        if self._listener is None:
            return None
        host, port = self._listener.getsockname()[:2]
        return host, port

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen on this address instead of the previous one. Open connections continue. Raises SamepagedError if the
        address is unavailable; the previous listener stays then.
        """
        address = resolve(host, port)
        listener = self._listener
        if listener is None or listener.getsockname() != address.address:
            listener = self._bound(address)
            self._accept_batch(listener)
        host, port = listener.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Close the listener and every connection."""
        self._release()
        for task in self._open:
            task.cancel()

    def _bound(self, address: Address) -> socket.socket:
        try:
            return bind(address)
        except SamepagedError as error:
            number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
            if number != errno.EADDRINUSE or self._listener is None:
                raise
            old = self._listener.getsockname()
            if old[1] != address.address[1]:
                raise
            # The own listener may conflict, for example in a change from a loopback address to all addresses.
            family = self._listener.family
            self._release()
            try:
                return bind(address)
            except SamepagedError:
                self._accept_batch(bind(Address(family, old, "")))
                raise

    def _release(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept_batch(self, listener: socket.socket) -> None:
        self._release()
        self._listener = listener
        self._accepting = asyncio.get_running_loop().create_task(self._accept(listener))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(ACCEPT_BATCH):
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:  # most errors concern one connection that has ended: accept(2)
                    if error.errno in EXHAUSTION_ERRNOS:
                        log.debug("cannot accept connections, out of descriptors or memory%s", details(error=error))
                        self._close_one()
                        await asyncio.sleep(PAUSE_SECONDS)
                else:
                    self._admit(connection)
            await asyncio.sleep(0)

    def _admit(self, connection: socket.socket) -> None:
        if len(self._open) >= self._max_connections and not self._close_one():
            connection.close()
            return
        connection.setblocking(False)
        conversation = Connection(connection, self._site, self.config, self._deadlines)
        task = asyncio.get_running_loop().create_task(conversation.run())
        self._open[task] = conversation
        task.add_done_callback(self._discard)

    def _discard(self, task: asyncio.Task[None]) -> None:
        self._open.pop(task).close()  # the task may have been cancelled before its first step

    def _close_one(self) -> bool:
        """Close a connection to make room: the oldest that waits for its client, else one with a slow reply."""
        now = asyncio.get_running_loop().time()
        task = self._first_connection(lambda one: one.owing) or self._first_connection(
            lambda one: now - one.began > GRACE_SECONDS
        )
        if task is None:
            return False
        task.cancel()
        return True

    def _first_connection(self, chosen: Callable[[Connection], bool]) -> asyncio.Task[None] | None:
        """Return the oldest chosen connection that is not being closed. Under load this runs for each client, so it
        does not build a list.
        """
        return next((task for task, one in self._open.items() if chosen(one) and not task.cancelling()), None)


MAX_REQUESTS: Final = 1000
SEND_BYTES: Final = 1 << 16
LINGER_SECONDS: Final = 1.0
MAX_LINGER_BYTES: Final = 1 << 18
HTTP_TO_HTTPS: Final = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nuse https here\n"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: for the TLS handshake; for a request, from its first byte (the first request: from the handshake) to its
    last; for the reply; and between two requests.
    """

    handshake: float = 5.0
    request: float = 5.0
    reply: float = 10.0
    idle: float = 90.0


class Connection:
    """Serves one client. `owing`: whether the server waits for the client; the connection may then be closed at any
    time.
    """

    def __init__(self, connection: socket.socket, site: Routes, config: ReloadingConfig, deadlines: Deadlines) -> None:
        self.owing = True
        self.began = asyncio.get_running_loop().time()
        self._socket = connection
        self._site = site
        self._config = config
        self._deadlines = deadlines

    async def run(self) -> None:
        """Serve requests until the client disconnects, exceeds a deadline, or is refused. Then close the connection."""
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Otherwise the kernel buffers up to 4 MiB for each client that does not read its reply (tcp_wmem, tcp(7)).
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            channel = await self._channel()
            if channel is not None:
                await self._requests(channel)
                async with asyncio.timeout(self._deadlines.handshake):
                    await channel.close()
            self.owing = True
            await hang_up(self._socket)
        except asyncio.CancelledError:
            # Suppressed: a cancelled task refers to the exception, the exception to its frames, and the frames to the
            # task. Collecting thousands of such cycles per minute would delay a scrape.
            log.debug("client connection cancelled")
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            log.debug("client connection closed%s", details(error=error))
            error.__traceback__ = None  # breaks another cycle, through the future of a read
        except Exception:
            log.exception("request failed%s", details(remedy="report this as a bug"))
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection at once."""
        self._socket.close()

    async def _channel(self) -> Stream | None:
        """Return the stream of this client; None if its certificate does not have an allowed name."""
        loaded = self._config.current().loaded
        plain = PlainStream(self._socket)
        if loaded.tls is None or loaded.config.tls_server_config is None:
            return plain
        async with asyncio.timeout(self._deadlines.handshake):
            first = await plain.receive()  # allocate TLS state only after the client's first bytes
            secure = TlsStream(plain, loaded.tls, first)
            await secure.handshake()
        if admitted(loaded.config.tls_server_config, secure.session):
            return secure
        log.debug("client connection refused: name not in client_allowed_sans")
        return None

    async def _requests(self, channel: Stream) -> None:
        parser = Parser()
        for number in range(1, MAX_REQUESTS + 1):
            self.owing = True
            asked = parser.feed(b"")
            patience = self._deadlines.request if number == 1 else self._deadlines.idle
            async with asyncio.timeout(patience) as deadline:
                began = number == 1
                while asked is None:
                    data = await channel.receive()
                    if not data:
                        return
                    if not began:
                        began = True
                        deadline.reschedule(asyncio.get_running_loop().time() + self._deadlines.request)
                    asked = parser.feed(data)
            self.owing = False
            self.began = asyncio.get_running_loop().time()
            async with asyncio.timeout(self._deadlines.reply):
                if isinstance(asked, Refusal):
                    reply = Reply.line(asked.status, asked.text, ("X-Content-Type-Options", "nosniff"))
                else:
                    reply = await self._site.reply(asked, self._config.current())
                await _send(channel, *parser.reply(reply, last=number == MAX_REQUESTS))
            if not parser.reusable:
                return


async def _send(channel: Stream, head: bytes, body: bytes) -> None:
    """Send the head together with the start of the body, then the rest without a copy: connections share the body."""
    view = memoryview(body)
    await channel.send(head + view[:SEND_BYTES])
    for start in range(SEND_BYTES, len(view), SEND_BYTES):
        await channel.send(view[start : start + SEND_BYTES])


class Stream(Protocol):
    """A plain or encrypted byte stream. All methods raise OSError if the client has disconnected."""

    async def receive(self) -> bytes:
        """Return the next bytes; empty at the end of the stream."""

    async def send(self, data: bytes | memoryview) -> None:
        """Send all data."""

    async def close(self) -> None:
        """Signal the end of the data to the client."""


class PlainStream:
    """An unencrypted connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    async def receive(self) -> bytes:
        """Return the next bytes; empty at the end of the stream."""
        return await self._loop.sock_recv(self._socket, SEND_BYTES // 4)

    async def send(self, data: bytes | memoryview) -> None:
        """Send all data."""
        await self._loop.sock_sendall(self._socket, data)

    async def close(self) -> None:
        """Do nothing: `hang_up` ends a plain stream."""


class TlsStream:
    """A TLS stream on top of a plain one. `first`: bytes already received. It sends no data before the handshake."""

    def __init__(self, plain: PlainStream, context: ssl.SSLContext, first: bytes) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(first)
        self.session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def handshake(self) -> None:
        """Do the TLS handshake. Raises OSError (ssl.SSLError)."""
        while True:
            try:
                self.session.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self._more())
            except ssl.SSLError as error:
                with contextlib.suppress(OSError):
                    await self._flush()  # the alert with the reason
                    if error.reason == "HTTP_REQUEST":
                        await self._plain.send(HTTP_TO_HTTPS)
                raise
            else:
                await self._flush()
                return

    async def receive(self) -> bytes:
        """Return the next bytes; empty at the end of the stream."""
        while True:
            try:
                data = self.session.read(SEND_BYTES // 4)
            except ssl.SSLWantReadError:
                await self._flush()  # the response to a key update
                self._incoming.write(await self._more())
            except ssl.SSLZeroReturnError:
                return b""
            else:
                return data

    async def send(self, data: bytes | memoryview) -> None:
        """Encrypt and send all data in slices."""
        view = memoryview(data)
        for start in range(0, len(view), SEND_BYTES):
            self.session.write(view[start : start + SEND_BYTES])
            await self._flush()

    async def close(self) -> None:
        """Signal the end of the data to the client."""
        with contextlib.suppress(ssl.SSLError):  # the client has not sent its close_notify, and need not
            self.session.unwrap()
        await self._flush()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._plain.send(self._outgoing.read())

    async def _more(self) -> bytes:
        data = await self._plain.receive()
        if not data:
            raise ConnectionResetError("the client disconnected")
        return data


async def hang_up(connection: socket.socket) -> None:
    """Close a connection while its client may still be sending. After an immediate close, the kernel would reset the
    connection, and the client could lose the last reply (RFC 9112, 9.6).
    """
    loop = asyncio.get_running_loop()
    try:
        connection.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LINGER_SECONDS):
            left = MAX_LINGER_BYTES
            while left > 0 and (data := await loop.sock_recv(connection, SEND_BYTES)):
                left -= len(data)
    except (OSError, TimeoutError) as error:  # the client has disconnected, or does not
        error.__traceback__ = None  # breaks a cycle through the future of the read
