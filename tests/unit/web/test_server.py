from __future__ import annotations

import contextlib
import gc
import http.client
import logging
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from samepaged.errors import SamepagedError
from samepaged.web.protocol import Document
from samepaged.web.server import (
    ACCEPT_BATCH,
    MAX_CONNECTIONS,
    RESERVED_DESCRIPTORS,
    Connection,
    Deadlines,
    max_connections,
)
from tests.support.waiting import wait_for
from tests.unit.web.client import Running, read_all, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

HURRIED = Deadlines(handshake=0.1, request=0.1, reply=0.1, idle=0.1)


@pytest.fixture
def running() -> Iterator[Running]:
    with serving() as one:
        yield one


def test_documents_are_served(running: Running) -> None:
    answer, body = running.ask("/metrics", Accept="text/plain")
    assert (answer.status, body) == (200, b"text\n")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert running.ask("/-/ready")[0].status == 503


@pytest.mark.parametrize("path", ["/metrics", "/", "/nothing", "/-/healthy"])
def test_head_equals_get_without_body(running: Running, path: str) -> None:
    (got, body), (told, nothing) = running.ask(path), running.ask(path, "HEAD")
    assert nothing == b""
    assert (told.status, told.headers["Content-Length"]) == (got.status, str(len(body)))


def test_connections_are_kept_alive(running: Running) -> None:
    client = http.client.HTTPConnection(*running.address, timeout=30)
    with contextlib.closing(client):
        for _ in range(5):
            client.request("GET", "/metrics")
            assert client.getresponse().read() == b"text\n"
            port = client.sock.getsockname()
        assert client.sock.getsockname() == port


@pytest.mark.parametrize(
    "request_bytes", [b"GET /" + b"x" * 300_000, b"\x16\x03\x01", b"<script> / x HTTP/1.1\r\n\r\n"]
)
def test_invalid_request_has_a_reply(running: Running, request_bytes: bytes) -> None:
    answer = running.raw(request_bytes)
    assert answer.startswith(b"HTTP/1.1 4")
    assert b"<script>" not in answer
    assert b"\r\nConnection: close\r\n" in answer
    assert running.ask("/metrics")[0].status == 200


def test_requests_are_not_logged(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        running.ask("/metrics")
        running.raw(b"bad\r\n\r\n")
        for _ in range(20):
            with running.connect() as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert running.ask("/metrics")[0].status == 200
    assert caplog.records == []


@pytest.mark.parametrize("sent", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nAccept: a"])
def test_half_open_client_is_closed(sent: bytes) -> None:
    with serving(deadlines=HURRIED) as running, running.connect() as client:
        client.sendall(sent)
        assert read_all(client) == b""


def test_slow_request_is_closed() -> None:
    with serving(deadlines=HURRIED) as running, running.connect() as client:
        client.settimeout(0.01)
        for _ in range(3000):
            try:
                client.sendall(b"G")
                if client.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it was still listened to")


def test_idle_connection_is_closed() -> None:
    with serving(deadlines=HURRIED) as running, running.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"text\n" in read_all(client)


def test_stalled_reply_is_closed() -> None:
    body = bytes(64 << 20)
    with serving([Document("/metrics", "text/plain", body)], deadlines=HURRIED) as running, running.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.5)
        assert 0 < len(read_all(client)) < len(body)


def test_a_large_answer_arrives_whole() -> None:
    body = bytes(range(256)) * 50_000
    with serving([Document("/metrics", "text/plain", body)]) as running:
        assert running.ask("/metrics")[1] == body


def test_silent_clients_make_room() -> None:
    with serving(most=16) as running, contextlib.ExitStack() as clients:
        silent = [clients.enter_context(running.connect()) for _ in range(40)]
        assert running.ask("/metrics")[1] == b"text\n"
        assert silent[0].recv(1) == b""  # the oldest connection was closed
        assert running.do(lambda: len(running.server._open)) <= 16 + ACCEPT_BATCH


def test_slow_clients_make_room() -> None:
    body = bytes(16 << 20)
    pages = [Document("/large", "text/plain", body), Document("/metrics", "text/plain", b"text\n")]
    with serving(pages, most=4) as running, contextlib.ExitStack() as clients:
        for _ in range(4):
            client = clients.enter_context(running.connect())
            client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(1) == b"H"

        def served() -> bool:
            # The server does not close connections in their first second.
            with contextlib.suppress(ConnectionError, http.client.HTTPException):
                return running.ask("/metrics")[1] == b"text\n"
            return False

        wait_for(served)


def test_many_connections_leave_no_garbage() -> None:
    with serving(most=8) as running, contextlib.ExitStack() as clients:
        running.ask("/metrics")
        gc.collect()
        gc.disable()
        clients.callback(gc.enable)
        for number in range(60):
            client = clients.enter_context(running.connect())
            client.sendall((b"", b"GET /", b"GET /metrics HTTP/1.0\r\n\r\n")[number % 3])
            if number % 3 == 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()  # with a reset
        running.ask("/metrics")
        wait_for(lambda: sum(type(one) is Connection for one in gc.get_objects()) <= 8 + ACCEPT_BATCH)


def test_descriptor_limit_bounds_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in ((64, 64 - RESERVED_DESCRIPTORS), (10, 4), (100_000, MAX_CONNECTIONS), (-1, MAX_CONNECTIONS)):
        monkeypatch.setattr("resource.getrlimit", lambda _, limit=limit: (limit, limit))
        assert max_connections() == most


def test_new_address_keeps_connections(running: Running) -> None:
    before = running.address
    with running.connect() as client:
        running.ask("/metrics")  # `client` has been accepted
        running.address = running.do(lambda: running.server.listen("127.0.0.1", 0))
        assert running.address != before
        assert running.ask("/metrics")[0].status == 200
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert read_all(client).endswith(b"text\n")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(before, timeout=30).close()


def test_same_or_wider_address_is_accepted(running: Running) -> None:
    host, port = running.address
    listener = running.server._listener
    assert running.do(lambda: running.server.listen(host, port)) == running.address
    assert running.server._listener is listener
    assert running.do(lambda: running.server.listen("0.0.0.0", port)) == ("0.0.0.0", port)  # noqa: S104 - the point
    assert running.ask("/metrics")[0].status == 200


def test_used_port_keeps_old_address(running: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        with pytest.raises(SamepagedError) as refused:
            running.do(lambda: running.server.listen(host, port))
    assert str(refused.value) == (
        f"cannot listen on {host}:{port}: Address already in use; stop the program that listens there, or choose "
        "another address"
    )
    assert running.ask("/metrics")[0].status == 200


def test_port_used_on_other_address(running: Running) -> None:
    _, port = running.address
    with socket.create_server(("127.0.0.2", port)), pytest.raises(SamepagedError):
        running.do(lambda: running.server.listen("0.0.0.0", port))  # noqa: S104 - the point
    assert running.ask("/metrics")[0].status == 200


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "no such host"])
def test_foreign_address_has_a_remedy(running: Running, host: str) -> None:
    with pytest.raises(SamepagedError, match=r"\Acannot listen on .*:9: [^\n]*; choose an address of this host\Z"):
        running.do(lambda: running.server.listen(host, 9))


def test_ipv6_is_served(running: Running) -> None:
    running.address = running.do(lambda: running.server.listen("::1", 0))
    assert running.address[0] == "::1"
    assert running.ask("/metrics")[0].status == 200


def test_close_frees_the_port() -> None:
    with serving() as running, running.connect() as waiting:
        running.ask("/metrics")
        running.do(running.server.close)
        assert read_all(waiting) == b""
        with pytest.raises(ConnectionRefusedError):
            running.connect().close()
