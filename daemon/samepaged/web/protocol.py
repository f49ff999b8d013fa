"""What scanner and web process say to each other, over a stream: frames of a JSON header and, for documents, bodies.

A frame is eight bytes (the header's length and the bodies', both big-endian), the header, and the bodies one after
another. Neither side trusts the other's lengths, nor what a header says.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from samepaged.errors import SamepagedError

__all__ = ["Answer", "Document", "Documents", "FeedError", "FrameReader", "Message", "Report", "Settings", "encode"]

LENGTHS: Final = struct.Struct("!II")
LONGEST_HEADER: Final = 1 << 16
LARGEST_BODIES: Final = 1 << 26
MOST_DOCUMENTS: Final = 64
LONGEST_TEXT: Final = 4096


class FeedError(SamepagedError):
    """The other side does not keep to the protocol: it is another version, or out of its mind."""


@dataclass(frozen=True, slots=True)
class Document:
    """A finished page. Of several with one path the first is for everybody, the others for who asks for their type."""

    path: str
    media_type: str
    body: bytes
    status: int = 200


@dataclass(frozen=True, slots=True)
class Documents:
    """To the web process: these paths show these documents from now on; what it has for other paths stays. Without
    documents: the scanner is alive.
    """

    documents: tuple[Document, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """To the web process: where to listen (host, port; port 0: any), and the web configuration file, if any. `number`
    is repeated by the answer.
    """

    number: int
    host: str
    port: int
    web_config_file: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """To the scanner: where the web process listens since these settings; or why it goes on as before. `misconfigured`
    tells that the web configuration file is to blame.
    """

    number: int
    host: str = ""
    port: int = 0
    tls: bool = False
    error: str = ""
    misconfigured: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """To the scanner: the web configuration file has changed and was read anew; `error` is empty if it is in force."""

    error: str = ""


Message = Documents | Settings | Answer | Report


def encode(message: Message) -> list[bytes]:
    """The frame of `message` in parts; bodies are not copied. Raises FeedError where it is too large to be sent."""
    bodies: list[bytes] = []
    match message:
        case Documents(documents):
            bodies = [document.body for document in documents]
            header: dict[str, Any] = {
                "documents": [[one.path, one.media_type, one.status, len(one.body)] for one in documents]
            }
        case Settings(number, host, port, path):
            header = {"settings": [number, host, port, path]}
        case Answer(number, host, port, tls, error, misconfigured):
            header = {"answer": [number, host, port, tls, error[:LONGEST_TEXT], misconfigured]}
        case Report(error):
            header = {"report": [error[:LONGEST_TEXT]]}
    text = json.dumps(header).encode()
    length = sum(map(len, bodies))
    if len(text) > LONGEST_HEADER or len(bodies) > MOST_DOCUMENTS or length > LARGEST_BODIES:
        raise FeedError(f"the documents for the web process take {length} bytes", f"it takes {LARGEST_BODIES} at most")
    return [LENGTHS.pack(len(text), length) + text, *bodies]


class FrameReader:
    """Messages out of a stream that is fed in pieces. `largest` is what the bodies of one frame may have together."""

    def __init__(self, largest: int = LARGEST_BODIES) -> None:
        self._largest = largest
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole now. Raises FeedError; the stream is of no use then."""
        self._buffer += data
        return list(self._frames())

    def _frames(self) -> Iterator[Message]:
        while len(self._buffer) >= LENGTHS.size:
            header, bodies = LENGTHS.unpack_from(self._buffer)
            if header > LONGEST_HEADER or bodies > self._largest:
                raise FeedError("a frame is too long", "do scanner and web process have the same version?")
            end = LENGTHS.size + header
            if len(self._buffer) < end + bodies:
                return
            with memoryview(self._buffer) as view:
                message = _decode(bytes(view[LENGTHS.size : end]), view[end : end + bodies])
            del self._buffer[: end + bodies]
            yield message


def _decode(header: bytes, bodies: memoryview) -> Message:
    try:
        with bodies:
            return _message(json.loads(header), bodies)
    except (ValueError, TypeError, RecursionError) as error:
        raise FeedError("a frame makes no sense", "do scanner and web process have the same version?") from error


def _message(header: object, bodies: memoryview) -> Message:
    if not isinstance(header, Mapping) or len(header) != 1:
        raise ValueError("not one message")
    ((kind, fields),) = header.items()
    if not isinstance(fields, list):
        raise TypeError(kind)
    match kind:
        case "documents":
            return Documents(tuple(_documents(fields, bodies)))
        case "settings":
            number, host, port, path = _typed(fields, int, str, int, (str, type(None)))
            return Settings(number, host, port, path)
        case "answer":
            return Answer(*_typed(fields, int, str, int, bool, str, bool))
        case "report":
            return Report(*_typed(fields, str))
        case _:
            raise ValueError(kind)


def _documents(fields: Sequence[object], bodies: memoryview) -> Iterator[Document]:
    if len(fields) > MOST_DOCUMENTS:
        raise ValueError("too many documents")
    start = 0
    for one in fields:
        if not isinstance(one, list):
            raise TypeError("not a document")
        path, media_type, status, length = _typed(one, str, str, int, int)
        if length < 0 or start + length > len(bodies) or not 200 <= status <= 599:  # noqa: PLR2004 - final statuses
            raise ValueError("not a document")
        yield Document(path, media_type, bytes(bodies[start : start + length]), status)
        start += length
    if start != len(bodies):
        raise ValueError("more bodies than documents")


def _typed(fields: Sequence[Any], *types: type | tuple[type, ...]) -> Sequence[Any]:
    """`fields`, if they are of these types and no others. A bool is no number."""
    if len(fields) != len(types):
        raise ValueError("not so many fields")
    for field, kind in zip(fields, types, strict=True):
        if not isinstance(field, kind) or (isinstance(field, bool) and kind is not bool):
            raise TypeError("a field of another type")
    return fields
