"""Connections from the scanner to the web process, which is either a child process or a separate service."""

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
# The environment variables of the web process. It does not get the service manager's sockets, for example.
ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "OPENSSL_CONF")


class WebProcess(Protocol):
    """A web process that the scanner can connect to."""

    def open(self) -> socket.socket:
        """Return a new, non-blocking feed. Raises OSError."""

    def close(self, feed: socket.socket) -> str:
        """Close the feed. Return a description of the end of the web process, for a log line."""


class ChildProcess:
    """Starts a web process for each feed. The process exits when the feed closes."""

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
                    start_new_session=True,  # Ctrl-C in the terminal reaches the scanner only
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        return ours

    def close(self, feed: socket.socket) -> str:
        """Close the feed, and wait for the process. Kill it with SIGKILL after EXIT_SECONDS."""
        feed.close()
        if self._process is None:
            return ""
        try:
            status = self._process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return "killed because it did not exit"
        return _exit_description(status)


class SystemdService:
    """Connects to a web process that listens for scanners on the Unix socket `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> socket.socket:
        """Connect to the socket, and return the feed. Raises OSError."""
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
        return f"{self._path} closed"


def _exit_description(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    name = str(-status)
    with contextlib.suppress(ValueError):
        name = signal.Signals(-status).name
    return f"killed by {name}"
