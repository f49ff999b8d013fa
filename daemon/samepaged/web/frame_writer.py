"""One feed of a web process: frames to it, as fast as it takes them, and what it says."""

from __future__ import annotations

import errno
import select
import time
from collections import deque
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from samepaged.web.protocol import Documents, FrameReader, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from samepaged.web.protocol import Document, Message

__all__ = ["FrameWriter"]

HUNG_SECONDS: Final = 60.0
PIECE: Final = 1 << 14


class FrameWriter:
    """The scanner's end. It holds one frame at most: nothing piles up for a web process that does not listen."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._left: deque[memoryview] = deque()
        self._reader = FrameReader(largest=0)
        self._shown: dict[str, list[Document]] = {}
        self._moved = time.monotonic()

    @property
    def interest(self) -> tuple[int, int]:
        """The descriptor, and the events of poll(2) that matter now."""
        return self._socket.fileno(), select.POLLIN | (select.POLLOUT if self._left else 0)

    @property
    def idle(self) -> bool:
        """Whether all has been taken: only then there is room for a message."""
        return not self._left

    def put(self, message: Message) -> None:
        """Send this from now on. Raises FeedError where it is too large."""
        self._left.extend(memoryview(part) for part in encode(message) if part)
        self._moved = time.monotonic()

    def show(self, documents: Iterable[Document]) -> None:
        """Send those of the documents that it does not have yet. Raises FeedError."""
        paths = {path: list(ones) for path, ones in groupby(documents, attrgetter("path"))}
        new = {path: ones for path, ones in paths.items() if self._shown.get(path) != ones}
        self._shown |= new
        self.put(Documents(tuple(one for ones in new.values() for one in ones)))

    def move(self, events: int) -> list[Message]:
        """Send and receive what can be without waiting, after poll(2) told `events`. Raises OSError where the other
        side is gone, or takes nothing for a minute, and FeedError.
        """
        heard: list[Message] = []
        if events & ~select.POLLOUT:
            data = self._socket.recv(PIECE)
            if not data:
                raise OSError(errno.ECONNRESET, "it closed the feed")
            heard = self._reader.feed(data)
        try:
            while self._left:
                sent = self._socket.send(self._left[0])
                self._moved = time.monotonic()
                self._left[0] = self._left[0][sent:]
                if not self._left[0]:
                    self._left.popleft()
        except BlockingIOError:
            if time.monotonic() - self._moved > HUNG_SECONDS:
                raise OSError(errno.ETIMEDOUT, "it takes nothing any more") from None
        return heard
