"""A client of the web server, and the least that such a server serves."""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samepaged.export.web import Server

LOCAL = ("127.0.0.1", 0)


def exposition(*, openmetrics: bool) -> bytes:
    return b"openmetrics\n# EOF\n" if openmetrics else b"text\n"


def ask(
    server: Server, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    client = http.client.HTTPConnection(*server.address, timeout=30)
    with contextlib.closing(client):
        client.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = client.getresponse()
        return answer, answer.read()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(server.address, timeout=30)


def raw(server: Server, request: bytes) -> bytes:
    """All that the server answers to these bytes, until it closes."""
    with connect(server) as client:
        client.sendall(request)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65536):
            received += more
    return received
