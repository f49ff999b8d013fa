"""The web process's HTTP: requests parsed from a client's bytes, each with a reply that a client understands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import h11

from samepaged.web.auth import Authenticator, RateLimit
from samepaged.web.config_schema import WebConfig
from samepaged.web.protocol import Document
from samepaged.web.request import Parser, Refusal, Reply, Request
from samepaged.web.routes import HEALTHY, Routes
from tests.fuzz.target import Target

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

PATHS: Final = ("/", "/metrics", "/-/ready", "/api/v1/snapshot")
OPEN_METRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
WORDS: Final = (
    *(b"GET ", b"HEAD ", b"POST ", b"CONNECT ", b"OPTIONS * ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b" HTTP/1.1\r\n"),
    *(
        b" HTTP/1.0\r\n",
        b" HTTP/0.9\r\n",
        b" HTTP/9.9\r\n",
        b"http://a/metrics",
        b"//a/metrics",
        b"/metrics?a=b#c",
        b"%2e%2e/",
    ),
    *(
        b"Host: a\r\n",
        b"Connection: close\r\n",
        b"Connection: keep-alive, Upgrade\r\n",
        b"Upgrade: h2c\r\n",
        b"\r\n\r\n",
    ),
    *(
        b"Content-Length: 0\r\n",
        b"Content-Length: 5\r\n\r\nabcde",
        b"Content-Length: 00, 0\r\n",
        b"Content-Length: -1\r\n",
    ),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"0\r\n\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(b"Accept: application/openmetrics-text;q=0.5,*/*;q=nan\r\n", b"Accept-Encoding: gzip;q=1_0\r\n", b"\r\n folded"),
    *(
        b"Authorization: Basic YTpi\r\n",
        b"Authorization: Basic ====\r\n",
        b"Range: bytes=0-\r\n",
        b"\n\n",
        b": ",
        b"\r",
        b"\0",
    ),
    *(b"A: " + b"a" * 1000 + b"\r\n", b"A:\r\n" * 99),
)


class Refused(Exception):  # noqa: N818 - not an error: the client gets a reply and is disconnected
    """The connection ends with a refusal."""


def check(data: bytes) -> None:
    whole = list(_conversation([data]))
    assert list(_conversation([data[:1], data[1:40], *(data[at : at + 7] for at in range(40, len(data), 7))])) == whole
    if isinstance(whole[-1], Refusal):
        raise Refused(whole[-1].text)


def _conversation(pieces: list[bytes]) -> Iterator[Request | Refusal | None]:
    """Yield the requests that the parser reads from a connection, as web.server drives it. A client parses each
    reply.
    """
    parser = Parser()
    for piece in pieces:
        asked = parser.feed(piece)
        while asked is not None:
            yield asked
            _read(parser, asked)
            if not parser.reusable:
                return
            asked = parser.feed(b"")
    yield None


def _read(parser: Parser, asked: Request | Refusal) -> None:
    # A refusal does not contain the method, and the reply to HEAD ends with its header.
    method = parser._method
    if isinstance(asked, Request):
        assert asked.method == method
        assert all(c.isascii() and c.isprintable() for c in asked.method + asked.path)
        assert asked.path
        reply = _now(SITE.reply(asked, NOW))
    else:
        reply = Reply.line(asked.status, asked.text)
    head, body = parser.reply(reply)
    client = h11.Connection(h11.CLIENT)
    # h11's client refuses to send some of these requests. Its parsing of a reply depends only on these two methods.
    known = method if method in {"HEAD", "CONNECT"} else "GET"
    client.send(h11.Request(method=known, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(head + body)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == reply.status
    if method != "HEAD":
        received = client.next_event()
        assert isinstance(received, h11.Data)
        assert bytes(received.data) == reply.body
    assert isinstance(client.next_event(), h11.EndOfMessage)
    assert client.trailing_data == (b"", False)
    assert not parser.reusable or b"connection: close" not in head.lower()


def _now(reply: Coroutine[Any, Any, Reply]) -> Reply:
    """Return a reply that completes without waiting."""
    try:
        reply.send(None)
    except StopIteration as done:
        found: Reply = done.value
        return found
    raise AssertionError("it waits")


class _Config:
    config = WebConfig()
    tls = None


class _Now:
    """The current settings, without files and without passwords."""

    loaded = _Config()
    gate = Authenticator({})
    limit = RateLimit(0, 0)


NOW: Final[Any] = _Now()
SITE: Final = Routes(lambda: 0.0)
SITE.show(Document(path, kind, b"body\n") for path in PATHS for kind in ("text/plain; version=0.0.4", OPEN_METRICS))

HOST: Final = b"Host: kvm-1:9953\r\n"
PROMETHEUS: Final = (
    HOST + b"User-Agent: Prometheus/2.42.0\r\nAccept: application/openmetrics-text;version=1.0.0,"
    b"application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n"
    b"Accept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n"
)
TARGET = Target(
    check,
    seeds=(
        *(b"GET %s HTTP/1.1\r\n%s" % (path.encode(), PROMETHEUS) for path in (*PATHS, HEALTHY, "/nowhere?a=b")),
        b"GET /metrics HTTP/1.1\r\n%s\r\nHEAD / HTTP/1.1\r\n%s\r\n" % (HOST, HOST),
        b"GET http://kvm-1:9953/metrics HTTP/1.1\r\n%sAuthorization: Basic YTpi\r\n\r\n" % HOST,
        b"POST / HTTP/1.1\r\n%sContent-Length: 0\r\n\r\n" % HOST,
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\n%sConnection: close\r\n\r\n" % HOST,
        b"CONNECT a:1 HTTP/1.1\r\n%s\r\n" % HOST,
        b"GET / HTTP/1.1\r\n%sConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" % HOST,
        b"GET / HTTP/1.1\r\n%sExpect: 100-continue\r\n\r\n" % HOST,
    ),
    words=WORDS,
    refusals=(Refused,),
    longest=4096,
)
