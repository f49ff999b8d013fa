"""Bytes to and from one client, plain or encrypted, straight on the socket: nothing is buffered for a slow one.

asyncio's own transports keep what a client does not take, and a quarter of a MiB for each that is encrypted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final, Protocol

__all__ = ["PlainStream", "Stream", "TlsStream", "hang_up"]

SLICE: Final = 1 << 16
LINGER_SECONDS: Final = 1.0
MOST_LINGERING: Final = 1 << 18
HTTP_TO_HTTPS: Final = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\nuse https here\n"


class Stream(Protocol):
    """A connection as the conversation sees it. All raise OSError when the client is gone."""

    async def receive(self) -> bytes:
        """The next bytes; none: the client sends no more."""

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""

    async def close(self) -> None:
        """Say that nothing more comes."""


class PlainStream:
    """An unencrypted connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    async def receive(self) -> bytes:
        """The next bytes; none: the client sends no more."""
        return await self._loop.sock_recv(self._socket, SLICE // 4)

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of it."""
        await self._loop.sock_sendall(self._socket, data)

    async def close(self) -> None:
        """Say that nothing more comes."""


class TlsStream:
    """A connection in TLS, on top of a plain one whose first bytes are here. Nothing is sent before the handshake."""

    def __init__(self, plain: PlainStream, context: ssl.SSLContext, first: bytes) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(first)
        self.session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    async def handshake(self) -> None:
        """Until both sides have proved what they have to. Raises OSError (ssl.SSLError)."""
        while True:
            try:
                self.session.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._incoming.write(await self._more())
            except ssl.SSLError as error:
                with contextlib.suppress(OSError):
                    await self._flush()  # the alert that says why
                    if error.reason == "HTTP_REQUEST":
                        await self._plain.send(HTTP_TO_HTTPS)
                raise
            else:
                await self._flush()
                return

    async def receive(self) -> bytes:
        """The next bytes; none: the client sends no more."""
        while True:
            try:
                data = self.session.read(SLICE // 4)
            except ssl.SSLWantReadError:
                await self._flush()  # an answer to a change of keys
                self._incoming.write(await self._more())
            except ssl.SSLZeroReturnError:
                return b""
            else:
                return data

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of it, encrypted a slice at a time."""
        view = memoryview(data)
        for start in range(0, len(view), SLICE):
            self.session.write(view[start : start + SLICE])
            await self._flush()

    async def close(self) -> None:
        """Say that nothing more comes."""
        with contextlib.suppress(ssl.SSLError):  # the other side has not said so yet, and need not
            self.session.unwrap()
        await self._flush()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._plain.send(self._outgoing.read())

    async def _more(self) -> bytes:
        data = await self._plain.receive()
        if not data:
            raise ConnectionResetError("the client has gone")
        return data


async def hang_up(connection: socket.socket) -> None:
    """Close a connection whose client may still be sending: were it closed at once, the kernel would reset it, and
    the client lose what was said last (RFC 9112, 9.6).
    """
    loop = asyncio.get_running_loop()
    try:
        connection.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LINGER_SECONDS):
            left = MOST_LINGERING
            while left > 0 and (data := await loop.sock_recv(connection, SLICE)):
                left -= len(data)
    except (OSError, TimeoutError) as error:  # it is gone, or will not go
        error.__traceback__ = None  # a circle, by way of the future of the read
