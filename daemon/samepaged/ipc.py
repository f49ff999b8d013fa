"""Messages between two processes: over a stream socket between processes that do not trust each other (`Stream`), and
over a pair of SOCK_SEQPACKET sockets between scanner and guard (`Channel`).

A message of a stream is START (a magic number and the header's length), the header and the message's arrays as raw
bytes. The header is JSON: the kind, the fields and the lengths of the arrays. A receiver passes the forms of the
messages that it accepts at that moment, with a bound for each part. It allocates nothing for other messages.

A message of a channel is a JSON object. The socket sends it whole or not at all, without blocking: a scanner that dies
while it writes cannot leave half a message, and each side notices the other's end at once. Scanner and guard run the
same code with the same rights, so their messages need no forms.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from samepaged.errors import SamepagedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "MAGIC",
    "MAX_HEADER_BYTES",
    "START",
    "Array",
    "Channel",
    "ChannelClosed",
    "Flag",
    "Form",
    "GoneError",
    "Header",
    "Number",
    "ProtocolError",
    "Rows",
    "Stream",
    "Text",
    "header_length",
    "pack",
    "unpack",
]

START: Final = struct.Struct("<4sI")
MAGIC: Final = b"SPS1"
MAX_HEADER_BYTES: Final = 1 << 16
# Between two calls of `stop`.
POLL_SECONDS: Final = 0.1


class ProtocolError(SamepagedError):
    """The peer sent a message that the receiver does not accept, or did not send or read one in time."""


class GoneError(ProtocolError):
    """The peer has closed its end."""


class Rule(Protocol):
    """The values that a field may have."""

    def accepts(self, value: object) -> bool:
        """Whether the field may have this value, as JSON has it."""


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number from `least` to `most`."""

    least: int
    most: int

    def accepts(self, value: object) -> bool:
        """As in Rule. A boolean is not a number."""
        return type(value) is int and self.least <= value <= self.most


@dataclass(frozen=True, slots=True)
class Text:
    """A text of at most `most` characters, or null if `optional`."""

    most: int
    optional: bool = False

    def accepts(self, value: object) -> bool:
        """As in Rule."""
        return (value is None and self.optional) or (isinstance(value, str) and len(value) <= self.most)


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""

    def accepts(self, value: object) -> bool:
        """As in Rule."""
        return isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Rows:
    """A list of at most `most` rows with these columns."""

    most: int
    columns: Sequence[Rule]

    def accepts(self, value: object) -> bool:
        """As in Rule."""
        return isinstance(value, list) and len(value) <= self.most and all(map(self._is_row, value))

    def _is_row(self, row: object) -> bool:
        return (
            isinstance(row, list)
            and len(row) == len(self.columns)
            and all(column.accepts(cell) for column, cell in zip(self.columns, row, strict=True))
        )


@dataclass(frozen=True, slots=True)
class Array:
    """An array of at most `most` entries of a type, as numpy names it; of exactly as many if `exact`."""

    dtype: str
    most: int
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a kind of message. A message has all of them and no others."""

    fields: Mapping[str, Rule] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Header:
    """A header that conforms to its form. `lengths` has the entries of each array, in the order of the arrays."""

    kind: str
    fields: dict[str, Any]
    lengths: dict[str, int]


def pack(kind: str, fields: Mapping[str, Any], lengths: Mapping[str, int]) -> bytes:
    """START and header of a message. Raises ProtocolError if the header is too long."""
    header = json.dumps({"kind": kind, "fields": dict(fields), "lengths": dict(lengths)}).encode("ascii")
    if len(header) > MAX_HEADER_BYTES:
        raise ProtocolError(f"the header of a message has {len(header)} bytes; the limit is {MAX_HEADER_BYTES}")
    return START.pack(MAGIC, len(header)) + header


def header_length(start: bytes | bytearray | memoryview) -> int:
    """The length of the header after these bytes (as many as START has). Raises ProtocolError."""
    magic, length = START.unpack(start)
    if magic != MAGIC or length > MAX_HEADER_BYTES:
        raise ProtocolError("malformed message")
    return int(length)


def unpack(raw: bytes | bytearray, forms: Mapping[str, Form]) -> Header:
    """A header of one of these forms. Raises ProtocolError."""
    try:
        header = json.loads(raw.decode("ascii"))
        kind, fields, lengths = header["kind"], header["fields"], header["lengths"]
    except (ValueError, RecursionError, TypeError, LookupError):
        raise ProtocolError("malformed header") from None
    whole = len(header) == len(("kind", "fields", "lengths"))
    if not (whole and isinstance(kind, str) and isinstance(fields, dict) and isinstance(lengths, dict)):
        raise ProtocolError("malformed header")
    form = forms.get(kind)
    if form is None:
        raise ProtocolError("unexpected message")
    _check(form, fields, lengths)
    return Header(kind, fields, lengths)


def _check(form: Form, fields: dict[str, Any], lengths: dict[str, Any]) -> None:
    if fields.keys() != form.fields.keys() or lengths.keys() != form.arrays.keys():
        raise ProtocolError("a message with missing or additional parts")
    for name, rule in form.fields.items():
        if not rule.accepts(fields[name]):
            raise ProtocolError(f"{name} is out of range")
    for name, array in form.arrays.items():
        if not Number(array.most if array.exact else 0, array.most).accepts(lengths[name]):
            raise ProtocolError(f"the length of {name} is out of range")


class Stream:
    """One end of a stream socket, with deadlines of time.monotonic. It calls `stop` while it waits, and raises
    ProtocolError if that returns True. Without `stop` it waits without a bound and ignores deadlines, because a process
    in the sandbox may only read and write.
    """

    def __init__(self, sock: socket.socket, stop: Callable[[], bool] | None = None) -> None:
        self._socket = sock
        self._stop = stop
        sock.settimeout(None if stop is None else POLL_SECONDS)

    def read_header(self, forms: Mapping[str, Form], deadline: float | None) -> Header:
        """Read START and the header of a message of one of these forms. Raises ProtocolError."""
        start = bytearray(START.size)
        self.fill(memoryview(start), deadline)
        raw = bytearray(header_length(start))
        self.fill(memoryview(raw), deadline)
        return unpack(raw, forms)

    def write(self, raw: bytes | memoryview, deadline: float | None) -> None:
        """Write all of it. Raises ProtocolError."""
        view = memoryview(raw)
        while view:
            self._wait(deadline)  # before each part, so that the deadline also applies to a slow reader
            try:
                view = view[self._socket.send(view) :]
            except TimeoutError:
                continue
            except OSError as error:
                raise GoneError("connection closed") from error

    def fill(self, view: memoryview, deadline: float | None) -> None:
        """Read until `view` is full. Raises ProtocolError."""
        while view:
            self._wait(deadline)
            try:
                got = self._socket.recv_into(view)
            except TimeoutError:
                continue
            except OSError as error:
                raise GoneError("connection closed") from error
            if not got:
                raise GoneError("connection closed")
            view = view[got:]

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _wait(self, deadline: float | None) -> None:
        if self._stop is None:
            return
        left = POLL_SECONDS if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise ProtocolError("timed out")
        if self._stop():
            raise ProtocolError("interrupted")
        self._socket.settimeout(min(left, POLL_SECONDS))


MAX_CHANNEL_BYTES: Final = 1 << 16


class ChannelClosed(Exception):  # noqa: N818 - the peer's exit is normal
    """The peer has closed its end: its process has exited."""


class Channel:
    """One end of a pair of SOCK_SEQPACKET sockets."""

    def __init__(self, sock: socket.socket) -> None:
        self._end = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """An end, and the other one's socket."""
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(mine), other

    def send(self, **message: Any) -> None:  # noqa: ANN401 - values of JSON
        """Send a message. Raises ChannelClosed, also if the socket is full: the other side has not read it."""
        try:
            self._end.send(json.dumps(message).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            raise ChannelClosed from error

    def receive(self, seconds: float | None) -> dict[str, Any] | None:
        """The next message; None if none came in so many seconds. Raises ChannelClosed."""
        try:
            if not self._poll.poll(None if seconds is None else max(seconds, 0) * 1000):
                return None
            raw = self._end.recv(MAX_CHANNEL_BYTES)
        except OSError as error:
            raise ChannelClosed from error
        if not raw:
            raise ChannelClosed
        message: dict[str, Any] = json.loads(raw)
        return message

    def close(self) -> None:
        """Close this end: the other side notices."""
        self._end.close()
