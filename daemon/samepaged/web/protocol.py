"""Messages between the scanner and the web process (ipc.py), and an incremental reader of their stream."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from samepaged.ipc import START, Array, Flag, Form, Number, ProtocolError, Rows, Text, header_length, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from samepaged.ipc import Header

__all__ = [
    "Answer",
    "Document",
    "Documents",
    "FeedError",
    "FrameReader",
    "MediaType",
    "Message",
    "Report",
    "Settings",
    "encode",
]

MAX_BODIES_BYTES: Final = 1 << 26
MAX_DOCUMENTS: Final = 64
MAX_TEXT_CHARACTERS: Final = 4096
SAME_VERSION: Final = "install the same version of scanner and web process"
_NUMBER: Final = Number(0, (1 << 63) - 1)
_TEXT: Final = Text(MAX_TEXT_CHARACTERS)
_PORT: Final = Number(0, (1 << 16) - 1)
_FINAL_STATUS: Final = Number(200, 599)
FORMS: Final = {
    "documents": Form(
        {"documents": Rows(MAX_DOCUMENTS, (_TEXT, _TEXT, _FINAL_STATUS, Number(0, MAX_BODIES_BYTES)))},
        {"bodies": Array("u1", MAX_BODIES_BYTES)},
    ),
    "settings": Form(
        {"number": _NUMBER, "host": _TEXT, "port": _PORT, "web_config_file": Text(MAX_TEXT_CHARACTERS, optional=True)}
    ),
    "answer": Form(
        {
            "number": _NUMBER,
            "host": _TEXT,
            "port": _PORT,
            "tls": Flag(),
            "error": _TEXT,
            "remedy": Text(MAX_TEXT_CHARACTERS, optional=True),
            "misconfigured": Flag(),
        }
    ),
    "report": Form({"error": _TEXT}),
}


class FeedError(ProtocolError):
    """The peer violated the feed protocol, for example because it runs another version."""


class MediaType(StrEnum):
    """The media types of samepaged's documents and replies."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    PLAIN = "text/plain; charset=utf-8"
    HTML = "text/html; charset=utf-8"
    JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Document:
    """A finished page. Of several documents with one path, the first is the default; the others are for requests that
    prefer their media type.
    """

    path: str
    media_type: str
    body: bytes
    status: int = 200


@dataclass(frozen=True, slots=True)
class Documents:
    """To the web process: new documents, which replace those with the same paths. Without documents, a keep-alive."""

    documents: tuple[Document, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """To the web process: the listening address (port 0: any free port), and the web configuration file, if any. The
    answer repeats `number`.
    """

    number: int
    host: str
    port: int
    web_config_file: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """To the scanner: the active listening address after these settings, or the error after which the previous
    settings stay active. `misconfigured`: whether the web configuration file caused the error.
    """

    number: int
    host: str = ""
    port: int = 0
    tls: bool = False
    error: str = ""
    remedy: str | None = None
    misconfigured: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """To the scanner: the web configuration file has changed and was read again. `error` is empty if it is active."""

    error: str = ""


Message = Documents | Settings | Answer | Report


def encode(message: Message) -> list[bytes]:
    """Return the frame of `message` in parts, without copying bodies. Raises FeedError if it is too large."""
    bodies: list[bytes] = []
    match message:
        case Documents(documents):
            kind, bodies = "documents", [document.body for document in documents]
            rows = [[one.path, one.media_type, one.status, len(one.body)] for one in documents]
            fields: dict[str, Any] = {"documents": rows}
        case Settings():
            kind, fields = "settings", _fields("settings", message)
        case Answer():
            kind, fields = "answer", _fields("answer", message)
        case Report():
            kind, fields = "report", _fields("report", message)
    length = sum(map(len, bodies))
    too_large = len(bodies) > MAX_DOCUMENTS or length > MAX_BODIES_BYTES
    try:
        start = b"" if too_large else pack(kind, fields, {"bodies": length} if kind == "documents" else {})
    except ProtocolError:
        too_large = True
    if too_large:
        raise FeedError(
            f"the documents for the web process have {length} bytes", f"reduce them to {MAX_BODIES_BYTES} bytes"
        )
    return [start, *bodies]


def _fields(kind: str, message: Settings | Answer | Report) -> dict[str, Any]:
    values = [value[:MAX_TEXT_CHARACTERS] if isinstance(value, str) else value for value in astuple(message)]
    return dict(zip(FORMS[kind].fields, values, strict=True))


class FrameReader:
    """Parses messages from a stream that arrives in pieces. `largest`: maximum total size of the bodies of a frame, in
    bytes.
    """

    def __init__(self, largest: int = MAX_BODIES_BYTES) -> None:
        documents = replace(FORMS["documents"], arrays={"bodies": Array("u1", largest)})
        self._forms = {**FORMS, "documents": documents}
        self._buffer = bytearray()
        self._header: Header | None = None  # of a frame with incomplete bodies

    def feed(self, data: bytes) -> list[Message]:
        """Add data, and return the messages that are complete. Raises FeedError; the stream is unusable afterwards."""
        self._buffer += data
        try:
            return list(self._frames())
        except ProtocolError as error:
            raise FeedError(error.problem, SAME_VERSION) from error

    def _frames(self) -> Iterator[Message]:
        while (header := self._header or self._next_header()) is not None:
            self._header = header
            length = sum(header.lengths.values())
            if len(self._buffer) < length:
                return
            with memoryview(self._buffer) as view, view[:length] as bodies:
                message = _message(header, bodies)
            del self._buffer[:length]
            self._header = None
            yield message

    def _next_header(self) -> Header | None:
        """Remove and return the header at the start of the buffer; None if it is incomplete."""
        if len(self._buffer) < START.size:
            return None
        end = START.size + header_length(self._buffer[: START.size])
        if len(self._buffer) < end:
            return None
        header = unpack(self._buffer[START.size : end], self._forms)
        del self._buffer[:end]
        return header


def _message(header: Header, bodies: memoryview) -> Message:
    match header.kind:
        case "documents":
            return Documents(tuple(_documents(header.fields["documents"], bodies)))
        case "settings":
            return Settings(**header.fields)
        case "answer":
            return Answer(**header.fields)
        case _:
            return Report(**header.fields)


def _documents(rows: list[tuple[str, str, int, int]], bodies: memoryview) -> Iterator[Document]:
    if sum(length for *_, length in rows) != len(bodies):
        raise ProtocolError("the length of the bodies differs from that of the documents")
    start = 0
    for path, media_type, status, length in rows:
        yield Document(path, media_type, bytes(bodies[start : start + length]), status)
        start += length
