"""What passes between the daemon and the process that reads a guest's memory, which the guest may have taken over.

A message is a header of JSON (its kind, its fields, how long its arrays are) and the arrays, raw. Whoever receives says
which messages it takes now and how long each part may be: nothing else is allocated, and nothing else is believed.
"""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from samepaged.errors import SamepagedError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["Array", "Channel", "Form", "GoneError", "Line", "Message", "Number", "WireError"]

START: Final = struct.Struct("<4sI")
MAGIC: Final = b"SPS1"
MOST_HEADER: Final = 1 << 16
# Seconds between two looks at whether to stop.
SLICE: Final = 0.1


class WireError(SamepagedError):
    """The other side said what it may not say, or nothing in time."""


class GoneError(WireError):
    """There is no other side any more."""


@dataclass(frozen=True, slots=True)
class Array:
    """An array of this type (as numpy names it) of up to `most` entries; `exact` where it must have as many."""

    dtype: str
    most: int
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number from `least` to `most`."""

    least: int
    most: int

    def takes(self, value: object) -> bool:
        """Whether the value is one."""
        return type(value) is int and self.least <= value <= self.most


@dataclass(frozen=True, slots=True)
class Line:
    """A text of at most `most` characters, or null."""

    most: int

    def takes(self, value: object) -> bool:
        """Whether the value is one."""
        return value is None or (isinstance(value, str) and len(value) <= self.most)


@dataclass(frozen=True, slots=True)
class Form:
    """What a message of some kind is made of; all of it must be there, and nothing else."""

    fields: Mapping[str, Number | Line] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """A message that has been taken: `fields` are as its form says, and so are `arrays` (writable, one dimension)."""

    kind: str
    fields: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class Channel:
    """One end of a stream socket. `stop` is asked while it waits; WireError is raised where it says so. Without it, it
    waits for ever, and takes no deadline: this is all that a process can do that may only read and write.
    """

    def __init__(self, sock: socket.socket, stop: Callable[[], bool] | None = None) -> None:
        self._socket = sock
        self._stop = stop
        sock.settimeout(None if stop is None else SLICE)

    def send(
        self,
        kind: str,
        arrays: Mapping[str, NDArray[Any]] = MappingProxyType({}),
        fields: Mapping[str, int | str | None] = MappingProxyType({}),
        deadline: float | None = None,
    ) -> None:
        """Send a message before `deadline` (of time.monotonic). Raises WireError."""
        lengths = {name: len(array) for name, array in arrays.items()}
        header = json.dumps({"kind": kind, "fields": dict(fields), "lengths": lengths}).encode()
        self._write(START.pack(MAGIC, len(header)) + header, deadline)
        for array in arrays.values():
            self._write(np.ascontiguousarray(array).data.cast("B") if len(array) else b"", deadline)

    def receive(self, forms: Mapping[str, Form], deadline: float | None = None) -> Message:
        """The next message, which must be one of these. Raises WireError."""
        start = bytearray(START.size)
        self._fill(memoryview(start), deadline)
        magic, length = START.unpack(start)
        if magic != MAGIC or length > MOST_HEADER:
            raise WireError("it does not speak as it should")
        raw = bytearray(length)
        self._fill(memoryview(raw), deadline)
        kind, fields, lengths = _header(raw)
        form = forms.get(kind)
        if form is None:
            raise WireError("it said what it was not asked")
        _check(form, fields, lengths)
        arrays = {}
        for name, length in lengths.items():  # in the order in which they were sent
            array = np.empty(length, dtype=form.arrays[name].dtype)
            if len(array):
                self._fill(array.data.cast("B"), deadline)
            arrays[name] = array
        return Message(kind, fields, arrays)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def _write(self, raw: bytes | memoryview, deadline: float | None) -> None:
        view = memoryview(raw)
        while view:
            self._wait(deadline)  # whoever listens, but slowly, is waited for no longer
            try:
                view = view[self._socket.send(view) :]
            except TimeoutError:
                continue
            except OSError as error:
                raise GoneError("it is gone") from error

    def _fill(self, view: memoryview, deadline: float | None) -> None:
        while view:
            self._wait(deadline)
            try:
                got = self._socket.recv_into(view)
            except TimeoutError:
                continue
            except OSError as error:
                raise GoneError("it is gone") from error
            if not got:
                raise GoneError("it is gone")
            view = view[got:]

    def _wait(self, deadline: float | None) -> None:
        if self._stop is None:
            return
        left = SLICE if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise WireError("it took too long")
        if self._stop():
            raise WireError("it was interrupted")
        self._socket.settimeout(min(left, SLICE))


def _header(raw: bytearray) -> tuple[str, dict[str, Any], dict[str, Any]]:
    try:
        header = json.loads(raw.decode("ascii"))
        kind, fields, lengths = header["kind"], header["fields"], header["lengths"]
    except (ValueError, RecursionError, TypeError, LookupError):
        raise WireError("it does not speak as it should") from None
    known = len(header) == len(("kind", "fields", "lengths"))
    if not (known and isinstance(kind, str) and isinstance(fields, dict) and isinstance(lengths, dict)):
        raise WireError("it does not speak as it should")
    return kind, fields, lengths


def _check(form: Form, fields: dict[str, Any], lengths: dict[str, Any]) -> None:
    if fields.keys() != form.fields.keys() or lengths.keys() != form.arrays.keys():
        raise WireError("it left something out, or added something")
    for name, rule in form.fields.items():
        if not rule.takes(fields[name]):
            raise WireError(f"its {name} is out of range")
    for name, shape in form.arrays.items():
        least = shape.most if shape.exact else 0
        if not Number(least, shape.most).takes(lengths[name]):
            raise WireError(f"its {name} has a length that is out of range")
