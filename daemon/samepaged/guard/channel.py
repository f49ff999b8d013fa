"""Messages between scanner and guard: JSON objects over a pair of SOCK_SEQPACKET sockets.

Unlike the streams of ipc.py, such a socket sends a message whole or not at all, without blocking. A scanner that dies
while it writes cannot leave half a message, and each side notices the other's end at once. Both processes run the same
code with the same rights, so the messages need no forms.
"""

from __future__ import annotations

import json
import select
import socket
from typing import Any, Final

__all__ = ["Channel", "ChannelClosed"]

MAX_MESSAGE_BYTES: Final = 1 << 16


class ChannelClosed(Exception):  # noqa: N818 - no error: the other side has ended
    """The other side has closed its end: its process is no more."""


class Channel:
    """One end of the pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._end = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """An end, and the other one's socket."""
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(mine), other

    def send(self, **message: Any) -> None:  # noqa: ANN401 - what JSON can say
        """Say something. Raises Closed, also where the other side has not listened for a long time."""
        try:
            self._end.send(json.dumps(message).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            raise ChannelClosed from error

    def receive(self, seconds: float | None) -> dict[str, Any] | None:
        """The next message; None where none came in so many seconds. Raises Closed."""
        try:
            if not self._poll.poll(None if seconds is None else max(seconds, 0) * 1000):
                return None
            said = self._end.recv(MAX_MESSAGE_BYTES)
        except OSError as error:
            raise ChannelClosed from error
        if not said:
            raise ChannelClosed
        message: dict[str, Any] = json.loads(said)
        return message

    def close(self) -> None:
        """Close this end: the other side notices."""
        self._end.close()
