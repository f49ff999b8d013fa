"""The scanner's end of the feed, as the web process has it: what it says is done, and answered."""

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
    """One scanner after another feeds `site`, and says where `server` listens."""

    def __init__(self, site: Routes, server: Server) -> None:
        self._site = site
        self._server = server
        self._scanner: socket.socket | None = None
        self._replies: asyncio.Queue[Answer | Report] = asyncio.Queue()
        self._warned: tuple[object, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether there is a scanner that is alive."""
        return self._scanner is not None and not self._site.stale

    async def serve(self, scanner: socket.socket) -> None:
        """Do what this scanner says, until it closes its end. Nothing of it is shown after that."""
        if self._scanner is not None:
            self._scanner.shutdown(socket.SHUT_RDWR)  # it has not been heard for long; this one takes its place
        self._scanner = scanner
        self._replies = asyncio.Queue(MAX_REPLIES)
        sending = asyncio.get_running_loop().create_task(_send_replies(scanner, self._replies))
        frames = FrameReader()
        try:
            while data := await asyncio.get_running_loop().sock_recv(scanner, RECEIVE_BYTES):
                for message in frames.feed(data):
                    self._handle(message)
        except FeedError as error:
            log.error("the scanner was not understood: %s", error)  # noqa: TRY400 - the line says all
        except OSError as error:
            log.debug("the feed has ended: %s", error)
        finally:
            sending.cancel()
            await asyncio.wait([sending])
            scanner.close()
            if self._scanner is scanner:
                self._scanner = None
                self._site.scanner_left()

    def report(self, error: str) -> None:
        """Tell the scanner that the web configuration file has changed, and whether that could be taken over."""
        self._reply(Report(error))
        self._warn_if_stale()

    def _handle(self, message: Message) -> None:
        match message:
            case Documents(documents):
                self._site.show(documents)
            case Settings():
                self._reply(self._apply_settings(message))
            case _:
                raise FeedError("it said what only the web process says")

    def _reply(self, reply: Answer | Report) -> None:
        if self._scanner is not None:
            with contextlib.suppress(asyncio.QueueFull):  # it does not listen
                self._replies.put_nowait(reply)

    def _apply_settings(self, settings: Settings) -> Answer:
        """Take the settings over, all or nothing of them."""
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
        """Say once what is worth knowing about settings that are allowed."""
        if self._server.address is None:
            return
        host, port = self._server.address
        loaded = self._server.config.current().loaded
        saying = (host, port, loaded.tls is not None, bool(loaded.config.basic_auth_users))
        if saying == self._warned:
            return
        self._warned = saying
        if loaded.tls is None and not is_loopback(host):
            log.warning(
                "%s is on the network without encryption%s; set export.web_config_file, or listen on loopback",
                written(host, port),
                ", passwords included" if loaded.config.basic_auth_users else "",
            )
        if loaded.config.http_server_config.http2 and "http2" in loaded.config.http_server_config.model_fields_set:
            log.info("http_server_config.http2 has no effect: HTTP/1.1 is spoken")


async def _send_replies(scanner: socket.socket, replies: asyncio.Queue[Answer | Report]) -> None:
    with contextlib.suppress(OSError):  # whoever reads from it notices, too
        while True:
            message = await replies.get()
            await asyncio.get_running_loop().sock_sendall(scanner, b"".join(encode(message)))


def feed_socket(path: Path) -> socket.socket:
    """A Unix socket at `path` that scanners connect to, for this user and its group. Raises SamepagedError."""
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
        why = getattr(error, "strerror", None) or str(error)
        raise SamepagedError(f"cannot listen on {path}: {why}", "name a path in a directory of this user") from error
    listener.setblocking(False)
    return listener


def _remove_stale_socket(path: Path) -> None:
    """A socket whose process was killed is in the way of the next."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(BlockingIOError):
                probe.setblocking(False)
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()


async def accept_scanners(listener: socket.socket, server: IpcServer) -> None:
    """Serve whoever may be a scanner, one at a time."""
    loop = asyncio.get_running_loop()
    allowed = {0, os.geteuid(), *_uid_of(SCANNER)}
    serving: set[asyncio.Task[None]] = set()
    while True:
        try:
            scanner, _ = await loop.sock_accept(listener)
        except OSError as error:
            log.warning("the scanner cannot connect: %s", error.strerror)
            await asyncio.sleep(1)
            continue
        scanner.setblocking(False)
        uid = _peer(scanner)
        if uid not in allowed:
            log.warning("user %d is not %s, and may not feed the web process; it was turned away", uid, SCANNER)
            scanner.close()
        elif server.busy:
            log.warning("a second scanner was turned away; stop one of the two")
            scanner.close()
        else:
            log.info("the scanner is here")
            task = loop.create_task(server.serve(scanner))
            serving.add(task)
            task.add_done_callback(serving.discard)
            task.add_done_callback(lambda _: log.info("a scanner has left"))


def _peer(connection: socket.socket) -> int:
    """The user at the other end (SO_PEERCRED, unix(7)): struct ucred is pid, uid, gid."""
    credentials = struct.Struct("=iII")
    uid: int = credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))[1]
    return uid


def _uid_of(user: str) -> list[int]:
    try:
        return [pwd.getpwnam(user).pw_uid]
    except KeyError:
        return []
