"""The web process's end of the feed: receives documents and settings from the scanner, and answers settings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.errors import ConfigError, SamepagedError
from samepaged.log_line import details
from samepaged.web.address import is_loopback, written
from samepaged.web.config_reload import ReloadingConfig
from samepaged.web.protocol import Answer, Documents, FeedError, FrameReader, Report, Settings, encode

if TYPE_CHECKING:
    from samepaged.web.protocol import Message
    from samepaged.web.routes import Routes
    from samepaged.web.server import Server

__all__ = ["IpcServer", "accept_scanners", "feed_socket"]

log = logging.getLogger(__name__)

SCANNER: Final = "samepaged"
RECEIVE_BYTES: Final = 1 << 18
MAX_REPLIES: Final = 16


class IpcServer:
    """Serves one scanner at a time: its documents go to `site`, its settings to `server`."""

    def __init__(self, site: Routes, server: Server) -> None:
        self._site = site
        self._server = server
        self._scanner: socket.socket | None = None
        self._replies: asyncio.Queue[Answer | Report] = asyncio.Queue()
        self._warned: tuple[object, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether a live scanner is connected."""
        return self._scanner is not None and not self._site.stale

    async def serve(self, scanner: socket.socket) -> None:
        """Handle the messages of this scanner until it disconnects. Afterwards its documents are no longer served."""
        if self._scanner is not None:
            self._scanner.shutdown(socket.SHUT_RDWR)  # stale; the new scanner replaces it
        self._scanner = scanner
        self._replies = asyncio.Queue(MAX_REPLIES)
        sending = asyncio.get_running_loop().create_task(_send_replies(scanner, self._replies))
        frames = FrameReader()
        try:
            while data := await asyncio.get_running_loop().sock_recv(scanner, RECEIVE_BYTES):
                for message in frames.feed(data):
                    self._handle(message)
        except FeedError as error:
            log.error("invalid message from the scanner%s", details(error=error))  # noqa: TRY400 - not a bug here
        except OSError as error:
            log.debug("feed closed%s", details(error=error))
        finally:
            sending.cancel()
            await asyncio.wait([sending])
            scanner.close()
            if self._scanner is scanner:
                self._scanner = None
                self._site.scanner_left()

    def report(self, error: str) -> None:
        """Report a reload of the web configuration file to the scanner. `error` is empty after a success."""
        self._reply(Report(error))
        self._warn_if_stale()

    def _handle(self, message: Message) -> None:
        match message:
            case Documents(documents):
                self._site.show(documents)
            case Settings():
                self._reply(self._apply_settings(message))
            case _:
                raise FeedError("the scanner sent a message that only the web process may send")

    def _reply(self, reply: Answer | Report) -> None:
        if self._scanner is not None:
            with contextlib.suppress(asyncio.QueueFull):  # the scanner does not read replies
                self._replies.put_nowait(reply)

    def _apply_settings(self, settings: Settings) -> Answer:
        """Apply all of the settings, or none after an error."""
        path = None if settings.web_config_file is None else Path(settings.web_config_file)
        try:
            config = ReloadingConfig(path, self.report)
            host, port = self._server.listen(settings.host, settings.port)
        except SamepagedError as error:
            blame = isinstance(error, ConfigError)
            return Answer(settings.number, error=error.problem, remedy=error.remedy, misconfigured=blame)
        self._server.config = config
        self._warn_if_stale()
        return Answer(settings.number, host, port, tls=config.current().loaded.tls is not None)

    def _warn_if_stale(self) -> None:
        """Log notable properties of valid settings, once."""
        if self._server.address is None:
            return
        host, port = self._server.address
        loaded = self._server.config.current().loaded
        state = (host, port, loaded.tls is not None, bool(loaded.config.basic_auth_users))
        if state == self._warned:
            return
        self._warned = state
        if loaded.tls is None and not is_loopback(host):
            log.warning(
                "listening on the network without encryption%s",
                details(
                    address=written(host, port),
                    passwords="unencrypted" if loaded.config.basic_auth_users else None,
                    remedy="set export.web_config_file, or listen on loopback",
                ),
            )
        if loaded.config.http_server_config.http2 and "http2" in loaded.config.http_server_config.model_fields_set:
            log.info("web configuration key ignored%s", details(key="http_server_config.http2", protocol="HTTP/1.1"))


async def _send_replies(scanner: socket.socket, replies: asyncio.Queue[Answer | Report]) -> None:
    with contextlib.suppress(OSError):  # the read of the same socket fails as well, and ends the connection
        while True:
            message = await replies.get()
            await asyncio.get_running_loop().sock_sendall(scanner, b"".join(encode(message)))


def feed_socket(path: Path) -> socket.socket:
    """Return a listening Unix socket at `path` for scanners, accessible to this user and its group. Raises
    SamepagedError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale_socket(path)
        before = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(4)
    except (OSError, ValueError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise SamepagedError(f"cannot listen on {path}: {reason}", "use a path in a directory of this user") from error
    listener.setblocking(False)
    return listener


def _remove_stale_socket(path: Path) -> None:
    """Remove the socket of a killed process, because it prevents the bind."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(BlockingIOError):
                probe.setblocking(False)
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()


async def accept_scanners(listener: socket.socket, server: IpcServer) -> None:
    """Serve scanners, one at a time, and refuse the connections of other users."""
    loop = asyncio.get_running_loop()
    allowed = {0, os.geteuid(), *_uid_of(SCANNER)}
    serving: set[asyncio.Task[None]] = set()
    while True:
        try:
            scanner, _ = await loop.sock_accept(listener)
        except OSError as error:
            log.warning("cannot accept the scanner%s", details(error=error.strerror))
            await asyncio.sleep(1)
            continue
        scanner.setblocking(False)
        uid = _peer(scanner)
        if uid not in allowed:
            log.warning("feed connection refused: not the scanner's user%s", details(uid=uid, allowed=SCANNER))
            scanner.close()
        elif server.busy:
            log.warning("second scanner refused%s", details(remedy="stop one of the two scanners"))
            scanner.close()
        else:
            log.info("scanner connected")
            task = loop.create_task(server.serve(scanner))
            serving.add(task)
            task.add_done_callback(serving.discard)
            task.add_done_callback(lambda _: log.info("scanner disconnected"))


def _peer(connection: socket.socket) -> int:
    """Return the user ID of the peer (SO_PEERCRED, unix(7)): struct ucred is pid, uid, gid."""
    credentials = struct.Struct("=iII")
    uid: int = credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))[1]
    return uid


def _uid_of(user: str) -> list[int]:
    try:
        return [pwd.getpwnam(user).pw_uid]
    except KeyError:
        return []
