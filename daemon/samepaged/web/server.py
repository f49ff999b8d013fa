"""Listening: every client is let in, the one that has kept us waiting longest goes when there are too many."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
from typing import TYPE_CHECKING, Final

from samepaged.errors import SamepagedError
from samepaged.web.address import Address, bind, resolve
from samepaged.web.connection import Connection, Deadlines

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from samepaged.web.config_reload import ReloadingConfig
    from samepaged.web.routes import Routes

__all__ = ["Server", "max_connections"]

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 512
# Connections taken before others have their turn. Those that are cut for them are closed only then.
ACCEPT_BATCH: Final = 8
# Descriptors that are no connections: standard ones, the feed, epoll and its pipe, two listeners, certificates.
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
        """The host and port that are listened on, if any."""
        if self._listener is None:
            return None
        host, port = self._listener.getsockname()[:2]
        return host, port

    def listen(self, host: str, port: int) -> tuple[str, int]:
        """Listen there, and no longer where it was before. Connections go on. Raises SamepagedError where the address
        cannot be had: nothing is changed then.
        """
        address = resolve(host, port)
        listener = self._listener
        if listener is None or listener.getsockname() != address.address:
            listener = self._bound(address)
            self._accept_batch(listener)
        host, port = listener.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Listen no longer, and cut every connection."""
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
            # It may be ourselves who hold it: from one loopback address to all addresses, say.
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
                except OSError as error:  # most are of the one connection, which is no more: accept(2)
                    if error.errno in EXHAUSTION_ERRNOS:
                        log.debug("no more connections: %s", error)
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
        self._open.pop(task).close()  # it may have been cut before its first step

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
        """The oldest of these that is not going already. In a storm this is asked for each client: no list."""
        return next((task for task, one in self._open.items() if chosen(one) and not task.cancelling()), None)
