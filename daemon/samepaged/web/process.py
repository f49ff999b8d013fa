"""How the scanner comes to a web process: as its child, or as a service of its own that is connected to."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ChildProcess", "SystemdService", "WebProcess"]

EXIT_SECONDS: Final = 0.5
CONNECT_SECONDS: Final = 2.0
# All that it needs of our environment: not the service manager's sockets, for one.
ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "OPENSSL_CONF")


class WebProcess(Protocol):
    """A way to a web process."""

    def open(self) -> socket.socket:
        """A new feed, not blocking. Raises OSError."""

    def close(self, feed: socket.socket) -> str:
        """Close the feed. Returns what is worth saying about the other side's end."""


class ChildProcess:
    """Starts the web process with each feed; it ends with the feed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> socket.socket:
        """Start a web process, and return its feed."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-m", "samepaged.web"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    cwd="/",
                    env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
                    start_new_session=True,  # the terminal's Ctrl-C is for the scanner
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return ours

    def close(self, feed: socket.socket) -> str:
        """Close the feed, and see the process end: of itself, or by SIGKILL."""
        feed.close()
        if self._process is None:
            return ""
        try:
            status = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return "it did not listen, and was killed"
        return _exit_description(status)


class SystemdService:
    """Connects to a web process that listens for scanners on the Unix socket `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> socket.socket:
        """Connect."""
        feed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            feed.settimeout(CONNECT_SECONDS)
            feed.connect(str(self._path))
        except OSError as error:
            feed.close()
            raise OSError(error.errno, f"{self._path}: {error.strerror or error}") from error
        feed.setblocking(False)
        return feed

    def close(self, feed: socket.socket) -> str:
        """Disconnect."""
        feed.close()
        return f"{self._path} was closed"


def _exit_description(status: int) -> str:
    if status >= 0:
        return f"it ended with status {status}"
    name = str(-status)
    with contextlib.suppress(ValueError):
        name = signal.Signals(-status).name
    return f"it was killed by {name}"
