from __future__ import annotations

import gzip
import logging
import socket
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from samepaged.errors import SamepagedError
from samepaged.export.metrics import SnapshotCollector, registry, render
from samepaged.export.web import Server
from tests.unit.export.builders import full_snapshot
from tests.unit.export.scraper import LOCAL, ask, connect, exposition, raw, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(LOCAL, exposition, lambda: True) as running:
        yield running


def test_metrics_are_in_the_text_format_unless_asked_otherwise(server: Server) -> None:
    answer, body = ask(server, "/metrics")

    assert (answer.status, body) == (200, b"text\n")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        # As Prometheus 2.42 and 3 ask.
        (
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            True,
        ),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4",
            True,
        ),
        ("text/plain;version=0.0.4;q=1,*/*;q=0.1", False),
        ("text/plain, application/openmetrics-text;q=0.2", False),
        ("application/openmetrics-text;q=0", False),
        ("*/*", False),
        ("text/html, */*;q=many", False),
        ("application/openmetrics-text; version=1.0.0evil", True),
    ],
)
def test_the_format_is_the_one_that_accept_prefers(server: Server, accept: str, openmetrics: bool) -> None:  # noqa: FBT001 - pytest
    answer, body = ask(server, "/metrics", Accept=accept)

    assert body == exposition(openmetrics=openmetrics)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text" if openmetrics else "text/plain")


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("identity", False), ("", False)],
)
def test_the_body_is_packed_for_those_who_take_gzip(server: Server, accepted: str, packed: bool) -> None:  # noqa: FBT001 - pytest
    answer, body = ask(server, "/metrics", Accept_Encoding=accepted)

    assert (answer.headers["Content-Encoding"] == "gzip") is packed
    assert (gzip.decompress(body) if packed else body) == b"text\n"


def test_the_metrics_of_a_snapshot_are_served_as_openmetrics_that_a_strict_parser_takes() -> None:
    source = registry(SnapshotCollector(full_snapshot()))
    with Server(LOCAL, partial(render, source), lambda: True) as server:
        _, body = ask(server, "/metrics", Accept="application/openmetrics-text", Accept_Encoding="gzip")

    families = parse_openmetrics(gzip.decompress(body).decode())  # type: ignore[no-untyped-call]  # untyped
    assert "samepage_domain_memory_bytes" in {family.name for family in families}


def test_ready_is_503_until_there_is_something_to_show() -> None:
    first = threading.Event()
    with Server(LOCAL, exposition, first.is_set) as server:
        assert ask(server, "/-/ready")[0].status == 503
        assert ask(server, "/-/healthy")[0].status == 200
        first.set()
        assert ask(server, "/-/ready")[0].status == 200


def test_the_index_links_to_what_there_is(server: Server) -> None:
    answer, body = ask(server, "/")

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    for path in ("metrics", "-/healthy", "-/ready"):
        assert f'href="{path}"'.encode() in body
        assert ask(server, f"/{path}")[0].status == 200


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/../etc/passwd", "/-/", "//evil.example/x", "/%6detrics"])
def test_any_other_path_is_not_found(server: Server, path: str) -> None:
    assert ask(server, path)[0].status == 404


def test_a_query_does_not_change_the_path(server: Server) -> None:
    assert ask(server, "/metrics?x=/y")[1] == b"text\n"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/metrics", "/nothing"])
def test_only_get_and_head_are_allowed(server: Server, method: str, path: str) -> None:
    answer, _ = ask(server, path, method)

    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/metrics", "/", "/nothing"])
def test_head_tells_the_same_as_get_without_the_body(server: Server, path: str) -> None:
    (got, body), (told, nothing) = ask(server, path), ask(server, path, "HEAD")

    assert nothing == b""
    assert (told.status, told.headers["Content-Length"]) == (got.status, str(len(body)))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 150 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02 hello there world\r\n\r\n", 400),
        (b"<script> / x HTTP/1.1\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
    ],
)
def test_a_bad_or_boundless_request_is_refused_and_not_repeated(
    server: Server, request_bytes: bytes, status: int
) -> None:
    answer = raw(server, request_bytes)

    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"<script>" not in answer
    assert ask(server, "/metrics")[0].status == 200


@pytest.mark.parametrize("request_bytes", [b"GET /metrics HTTP/1.1\r\n\r\n", b"bad\r\n\r\n", b"PUT / HTTP/1.1\r\n\r\n"])
def test_no_answer_names_the_software(server: Server, request_bytes: bytes) -> None:
    head = raw(server, request_bytes).partition(b"\r\n\r\n")[0].lower()

    assert b"server:" not in head
    assert b"python" not in head


def test_requests_are_not_logged_at_info(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ask(server, "/metrics")
        ask(server, "/nothing")
        raw(server, b"bad\r\n\r\n")

    assert caplog.records == []


def test_metrics_that_cannot_be_rendered_are_an_error_that_the_log_explains(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*, openmetrics: bool) -> bytes:
        raise ZeroDivisionError(openmetrics)

    with Server(LOCAL, broken, lambda: True) as server:
        answer, body = ask(server, "/metrics")
        healthy, _ = ask(server, "/-/healthy")

    assert (answer.status, healthy.status) == (500, 200)
    assert b"ZeroDivision" not in body
    assert "ZeroDivisionError" in caplog.text


def test_stopping_closes_the_port_and_lets_every_client_go() -> None:
    server = Server(LOCAL, exposition, lambda: True)
    server.start()
    address = server.address
    with connect(server) as waiting:
        ask(server, "/metrics")  # `waiting` has been accepted
        server.stop()
        server.stop()
        assert read_all(waiting) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=30).close()


def test_a_server_can_be_started_again_on_its_port() -> None:
    first = Server(LOCAL, exposition, lambda: True)
    with first:
        ask(first, "/metrics")
        address = first.address
    with Server(address, exposition, lambda: True) as second:
        assert ask(second, "/metrics")[0].status == 200


def test_the_address_tells_the_port_that_was_found(server: Server) -> None:
    host, port = server.address

    assert host == "127.0.0.1"
    assert port > 0


def test_ipv6_is_served() -> None:
    with Server(("::1", 0), exposition, lambda: True) as server:
        assert server.address[0] == "::1"
        assert ask(server, "/metrics")[0].status == 200


def test_a_port_in_use_is_one_line_with_the_address_and_a_remedy(server: Server) -> None:
    host, port = server.address
    with pytest.raises(SamepagedError) as refused:
        Server((host, port), exposition, lambda: True).start()

    assert str(refused.value) == (
        f"cannot listen on {host}:{port}: Address already in use; stop what listens there, or choose another address"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "no such host"])
def test_an_address_that_is_not_here_is_one_line_with_a_remedy(host: str) -> None:
    with pytest.raises(
        SamepagedError, match=r"\Acannot listen on .*:9: [^\n]*; choose an address that this host has\Z"
    ):
        Server((host, 9), exposition, lambda: True).start()
