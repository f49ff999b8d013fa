"""HTTP/1.1 by h11: requests without a body, their replies, and content negotiation (RFC 9110, 12.5). No I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from samepaged.web.protocol import MediaType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MAX_HEADER_BYTES", "Parser", "Refusal", "Reply", "Request", "choose", "quality", "takes_gzip"]

MAX_HEADER_BYTES: Final = 16 * 1024
"""Bytes of a request: its first line and its headers."""

# RFC 9112, 3.2.2: a server accepts the absolute form as well.
ABSOLUTE: Final = re.compile(r"\Ahttps?://[^/?#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request. `path` excludes the query; a missing header is empty."""

    method: str
    path: str
    accept: str = ""
    accept_encoding: str = ""
    authorization: bytes = b""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An invalid request: the status and text of the reply, after which the connection is closed."""

    status: HTTPStatus
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. Replies share their bodies, and never copy them."""

    status: HTTPStatus
    body: bytes
    media_type: str = MediaType.PLAIN
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def line(cls, status: HTTPStatus, text: str, *headers: tuple[str, str]) -> Reply:
        """Return a reply of one line of text."""
        return cls(status, f"{text}\n".encode(), headers=headers)

    def with_headers(self, more: Mapping[str, str]) -> Reply:
        """Return this reply with the headers `more`, which replace headers of the same names."""
        names = {name.lower() for name in more}
        kept = tuple(header for header in self.headers if header[0].lower() not in names)
        return replace(self, headers=(*kept, *more.items()))


class Parser:
    """The HTTP state of a connection: parses bytes to requests, and encodes their replies."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._refusal: Refusal | None = None
        self._accepted = False
        self._method = ""
        self._pipelined_bytes = 0

    def feed(self, data: bytes) -> Request | Refusal | None:
        """Add bytes (none: parse the buffered bytes), and return the next request. Return None if the request is
        incomplete, or if the previous request has no reply yet. After a refusal, return that refusal.
        """
        if self._refusal is not None:
            return self._refusal
        if self._accepted:
            self._pipelined_bytes += len(data)
            if self._pipelined_bytes > MAX_HEADER_BYTES:
                return self._refuse(HTTPStatus.BAD_REQUEST, "too many pipelined bytes")
        if data:
            self._http.receive_data(data)
        if self._accepted:
            return None
        try:
            event = self._http.next_event()
            if not isinstance(event, h11.Request):
                return None
            self._accepted = True
            request = self._parse_request(event)
            if isinstance(request, Request):
                self._http.next_event()  # the end of a message without a body
        except h11.RemoteProtocolError as error:
            status = HTTPStatus(error.error_status_hint)
            return self._refuse(status, f"{status.value} {status.phrase}")
        return request

    def reply(self, reply: Reply, *, last: bool = False) -> tuple[bytes, bytes]:
        """Return the head and the body to send. Afterwards, `reusable` is whether another request may follow; with
        `last`, it is false.
        """
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", reply.media_type),
            ("Content-Length", str(len(reply.body))),
            *reply.headers,
        ]
        if last or self._refusal is not None:
            headers.append(("Connection", "close"))
        response = h11.Response(status_code=reply.status, headers=headers, reason=reply.status.phrase)
        head = self._http.send(response)
        body = b"" if self._method == "HEAD" else reply.body
        if body:
            self._http.send_with_data_passthrough(h11.Data(data=body))
        self._http.send(h11.EndOfMessage())
        if self.reusable:
            self._http.start_next_cycle()
            self._accepted, self._method, self._pipelined_bytes = False, "", 0
        return head, body

    @property
    def reusable(self) -> bool:
        """Whether another request may follow on this connection."""
        states = {self._http.our_state, self._http.their_state}
        return self._refusal is None and states <= {h11.DONE, h11.IDLE}

    def _refuse(self, status: HTTPStatus, text: str) -> Refusal:
        self._refusal = Refusal(status, text)
        return self._refusal

    def _parse_request(self, event: h11.Request) -> Request | Refusal:
        self._method = event.method.decode("ascii")
        size = len(event.target) + sum(len(name) + len(value) + 4 for name, value in event.headers)
        if size > MAX_HEADER_BYTES:
            return self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "431 Request Header Fields Too Large")
        if not event.http_version.startswith(b"1."):
            return self._refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "use HTTP/1.1")
        length = _header(event, b"content-length")
        if _header(event, b"transfer-encoding") or length.strip(b"0"):
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "requests with a body are not supported")
        target = ABSOLUTE.sub("", event.target.decode("ascii"))
        return Request(
            self._method,
            target.partition("?")[0] or "/",
            _header(event, b"accept").decode("latin-1"),
            _header(event, b"accept-encoding").decode("latin-1"),
            _header(event, b"authorization"),
        )


def _header(event: h11.Request, name: bytes) -> bytes:
    return b",".join(value for known, value in event.headers if known == name)


def quality(header: str, name: str) -> float:
    """Return the highest q, 0 to 1, of `name` in an Accept or Accept-Encoding header; 0 if it is absent."""
    best = 0.0
    for item in header.split(","):
        value, *parameters = (part.strip().lower() for part in item.split(";"))
        if value == name:
            given = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
            best = max(best, _weight(given[0]) if given else 1.0)
    return best


def takes_gzip(accept_encoding: str) -> bool:
    """Return whether the client accepts gzip explicitly."""
    return quality(accept_encoding, "gzip") > 0


def choose(accept: str, media_types: Sequence[str]) -> int:
    """Return the index of the media type to send, of several with the same content. The first is the default. Another
    is selected if the client names it, and does not give more weight to the first.
    """
    plain = _essence(media_types[0])
    family = plain.partition("/")[0]
    best = max(quality(accept, name) for name in (plain, f"{family}/*", "*/*"))
    chosen = 0
    for index, media_type in enumerate(media_types[1:], start=1):
        wished = quality(accept, _essence(media_type))
        if wished > 0 and wished >= best:
            chosen, best = index, wished
    return chosen


def _essence(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0
