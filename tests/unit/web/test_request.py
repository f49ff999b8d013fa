from __future__ import annotations

import itertools
from http import HTTPStatus

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samepaged.web.request import MAX_HEADER_BYTES, Parser, Refusal, Reply, Request

OK = Reply.line(HTTPStatus.OK, "hello")


def parsed(data: bytes) -> Request | Refusal | None:
    return Parser().feed(data)


def get(target: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *headers, "", ""]).encode("latin-1")


def test_request_has_relevant_headers() -> None:
    request = parsed(
        get("/metrics?x=/y", "Accept: a", "accept: b;q=0.1", "Accept-Encoding: gzip", "Authorization: Basic Zm86bw==")
    )
    assert request == Request("GET", "/metrics", "a,b;q=0.1", "gzip", b"Basic Zm86bw==")


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://host:9953/metrics", "/metrics"),
        ("HTTPS://host", "/"),
        ("?x", "/"),
        ("//evil.example/x", "//evil.example/x"),
        ("/%6detrics", "/%6detrics"),
        ("*", "*"),
    ],
)
def test_path_of_any_target_form(target: str, path: str) -> None:
    request = parsed(get(target))
    assert isinstance(request, Request)
    assert request.path == path


WHOLE = get("/metrics", "Accept: text/plain")


@given(st.lists(st.integers(0, len(WHOLE) - 1)).map(sorted))
def test_request_survives_any_chunking(cuts: list[int]) -> None:
    parser = Parser()
    for start, end in itertools.pairwise([0, *cuts]):
        assert parser.feed(WHOLE[start:end]) is None
    assert parser.feed(WHOLE[cuts[-1] if cuts else 0 :]) == parsed(WHOLE)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 7\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/x\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: \x00\r\n\r\n", 400),
        (b"GET /" + b"x" * MAX_HEADER_BYTES, 431),
        (b"GET /" + b"x" * MAX_HEADER_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * (MAX_HEADER_BYTES // 6) + b"\r\n", 431),
    ],
)
def test_invalid_request_closes_connection(data: bytes, status: int) -> None:
    parser = Parser()
    refusal = parser.feed(data)
    assert isinstance(refusal, Refusal)
    assert refusal.status == status
    assert parser.feed(get("/metrics")) is refusal
    head, body = parser.reply(Reply.line(refusal.status, refusal.text))
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close\r\n" in head
    assert body
    assert not parser.reusable


def test_empty_body_is_accepted() -> None:
    assert isinstance(parsed(get("/", "Content-Length: 0")), Request)


def test_header_length_is_limited() -> None:
    room = MAX_HEADER_BYTES - len("/") - len("hosta") - 4 - len("a") - 4
    assert isinstance(parsed(get("/", "A: " + "b" * room)), Request)
    assert isinstance(parsed(get("/", "A: " + "b" * (room + 1))), Refusal)


def test_connection_is_reused() -> None:
    parser = Parser()
    for path in ("/a", "/b"):
        request = parser.feed(get(path))
        assert isinstance(request, Request)
        assert request.path == path
        head, body = parser.reply(OK)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b"hello\n"
        assert b"close" not in head
        assert parser.reusable


def test_pipelined_input_is_bounded() -> None:
    parser = Parser()
    assert isinstance(parser.feed(get("/a") + get("/b")), Request)
    assert parser.feed(get("/c")) is None
    parser.reply(OK)
    request = parser.feed(b"")
    assert isinstance(request, Request)
    assert request.path == "/b"
    assert parser.feed(b"x" * MAX_HEADER_BYTES) is None
    assert isinstance(parser.feed(b"x"), Refusal)


@pytest.mark.parametrize("header", ["Connection: close", "Connection: Keep-Alive, Close"])
def test_connection_close_is_honoured(header: str) -> None:
    parser = Parser()
    parser.feed(get("/", header))
    head, _ = parser.reply(OK)
    assert b"Connection: close" in head
    assert not parser.reusable


def test_http_1_0_closes_after_reply() -> None:
    old = Parser()
    assert isinstance(old.feed(b"GET / HTTP/1.0\r\n\r\n"), Request)
    assert b"Connection: close" in old.reply(OK)[0]
    assert not old.reusable
    last = Parser()
    last.feed(get("/"))
    assert b"Connection: close" in last.reply(OK, last=True)[0]
    assert not last.reusable


def test_head_reply_has_no_body() -> None:
    parser = Parser()
    parser.feed(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
    head, body = parser.reply(OK)
    assert b"Content-Length: 6\r\n" in head
    assert body == b""
    refusal = parser.feed(b"bad\r\n\r\n")
    assert isinstance(refusal, Refusal)
    assert parser.reply(Reply.line(refusal.status, refusal.text))[1] != b""


def test_no_reply_names_the_software() -> None:
    parser = Parser()
    parser.feed(get("/"))
    head = parser.reply(OK)[0].lower()
    assert b"server" not in head
    assert b"python" not in head


def test_body_is_not_copied() -> None:
    parser = Parser()
    parser.feed(get("/"))
    reply = Reply(HTTPStatus.OK, b"x" * 100)
    assert parser.reply(reply)[1] is reply.body


def test_headers_replace_same_name() -> None:
    reply = Reply.line(HTTPStatus.OK, "x", ("A", "1"), ("B", "2")).with_headers({"a": "3"})
    assert reply.headers == (("B", "2"), ("a", "3"))


@given(st.lists(st.binary(max_size=200) | st.sampled_from([get("/"), b"GET / HT", b"\r\n", b"POST / HTTP/1.1\r\n"])))
def test_any_input_has_a_reply(pieces: list[bytes]) -> None:
    parser = Parser()
    client = h11.Connection(h11.CLIENT)
    for piece in pieces:
        found = parser.feed(piece)
        if found is None:
            continue
        status = found.status if isinstance(found, Refusal) else HTTPStatus.OK
        head, body = parser.reply(Reply.line(status, "hello"))
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(head + body)
        response = client.next_event()
        assert isinstance(response, h11.Response)
        assert response.status_code == status
        if not parser.reusable:
            return
        client = h11.Connection(h11.CLIENT)
