from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

import pytest

from samepaged.export.web import Server
from tests.unit.export.scraper import LOCAL, ask, connect, exposition, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(LOCAL, exposition, lambda: True) as running:
        yield running


def test_silent_clients_do_not_keep_a_scraper_out(server: Server) -> None:
    with contextlib.ExitStack() as clients:
        silent = [clients.enter_context(connect(server)) for _ in range(40)]
        assert ask(server, "/metrics")[1] == b"text\n"
        assert silent[0].recv(1) == b""  # the oldest made room


def test_silent_clients_do_not_make_threads_without_end(server: Server) -> None:
    with contextlib.ExitStack() as clients:
        before = threading.active_count()
        for _ in range(60):
            clients.enter_context(connect(server)).sendall(b"GET /")
        ask(server, "/metrics")  # the connections before it have been accepted
        assert threading.active_count() - before <= 16


def test_a_renderer_that_hangs_does_not_make_threads_without_end() -> None:
    let_go = threading.Event()
    rendering = threading.Semaphore(0)
    entered = []

    def hanging(*, openmetrics: bool) -> bytes:
        entered.append(openmetrics)
        rendering.release()
        let_go.wait(30)
        return b""

    with contextlib.ExitStack() as clients:
        server = clients.enter_context(Server(LOCAL, hanging, lambda: True, workers=2))
        clients.callback(let_go.set)
        for number in range(12):
            client = clients.enter_context(connect(server))
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            if number < 2:
                assert rendering.acquire(timeout=30)  # both workers hang
        assert read_all(client) == b""  # refused: there is no room, nor can any be made

    assert len(entered) <= 4


@pytest.mark.parametrize("sent", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nAccept: a"])
def test_a_half_open_client_is_let_go(sent: bytes) -> None:
    with Server(LOCAL, exposition, lambda: True, deadline=0.05) as server, connect(server) as client:
        client.sendall(sent)
        assert read_all(client) == b""


def test_a_client_that_feeds_its_request_byte_by_byte_is_let_go() -> None:
    with Server(LOCAL, exposition, lambda: True, deadline=0.05) as server, connect(server) as client:
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


def test_a_client_that_does_not_take_its_answer_is_let_go() -> None:
    whole = 64 << 20

    def large(*, openmetrics: bool) -> bytes:
        del openmetrics
        return bytes(whole)

    with Server(LOCAL, large, lambda: True, deadline=0.05) as server, connect(server) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert client.recv(1) == b"H"  # the answer has begun
        for thread in threading.enumerate():
            if thread.name == "web-client":
                thread.join(30)
                assert not thread.is_alive()
        assert len(read_all(client)) < whole


def test_a_client_that_leaves_early_leaves_no_trace(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for _ in range(20):
            with connect(server) as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert ask(server, "/metrics")[0].status == 200

    assert caplog.records == []
