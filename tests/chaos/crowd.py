"""Clients that hold connections without a request: `python -m tests.chaos.crowd PORT`, on loopback only.

Half-open ones connect and send nothing, or part of a request (with TLS: of a handshake); slow ones send or read byte
by byte. Rejected clients reconnect. Prints `ready` when each has connected once, ends at the end of its input, and
then prints its results.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import resource
import socket
import ssl
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
# Seconds: between two visits of a client, and between two bytes of a slow one.
AWAY = (1.0, 5.0)
BYTE = 0.1
# The beginning of a TLS handshake record (RFC 8446, 5.1) that announces 512 bytes.
HELLO = bytes((22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3))
OPENINGS = (b"", b"G", b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Filler: ")


@dataclass
class Account:
    """Results of the crowd. `awaited` clients have not connected yet."""

    awaited: set[int]
    visits: int = 0
    refused: int = 0
    present: int = 0
    most: int = 0
    everybody: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def visit(self, number: int, writer: asyncio.StreamWriter) -> Iterator[None]:
        """One client is there."""
        self.visits += 1
        self.present += 1
        self.most = max(self.most, self.present)
        self.awaited.discard(number)
        if not self.awaited:
            self.everybody.set()
        try:
            yield
        finally:
            self.present -= 1
            writer.transport.abort()


class Crowd:
    """All the clients."""

    def __init__(self, port: int, half_open: int, slow: int, *, tls: bool, user: str) -> None:
        self.port = port
        self.numbers = range(half_open + slow)
        self._half_open = half_open
        self.account = Account(set(self.numbers))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if tls else None
        if self._tls is not None:
            self._tls.check_hostname = False
            self._tls.verify_mode = ssl.CERT_NONE
        login = f"Authorization: Basic {base64.b64encode(user.encode()).decode()}\r\n" if user else ""
        self._request = f"GET /metrics HTTP/1.1\r\nHost: a\r\n{login}\r\n".encode()

    async def half_open(self, number: int) -> None:
        reader, writer = await asyncio.open_connection(HOST, self.port)
        with self.account.visit(number, writer):
            writer.write(random.choice((b"", HELLO) if self._tls else OPENINGS))
            while await reader.read(4096):
                pass

    async def slow(self, number: int) -> None:
        # A small window: unread data stays in the server.
        port = socket.socket()
        port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        port.setblocking(False)
        await asyncio.get_running_loop().sock_connect(port, (HOST, self.port))
        name = HOST if self._tls else None
        reader, writer = await asyncio.open_connection(sock=port, ssl=self._tls, server_hostname=name, limit=256)
        with self.account.visit(number, writer):
            if number % 2:
                for byte in self._request:
                    writer.write(bytes((byte,)))
                    await writer.drain()
                    await asyncio.sleep(BYTE)
            else:
                writer.write(self._request)
            while await reader.read(1):  # noqa: ASYNC110 - the client that we are playing is just like that
                await asyncio.sleep(BYTE)

    async def client(self, number: int) -> None:
        """One client's life."""
        await asyncio.sleep(random.uniform(0, 2))
        while True:
            try:
                await (self.half_open(number) if number < self._half_open else self.slow(number))
            except OSError:
                self.account.refused += 1
            await asyncio.sleep(random.uniform(*AWAY))


async def _until_input_ends() -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def gather(crowd: Crowd) -> None:
    """Let them come, and stay until the input ends."""
    end = asyncio.create_task(_until_input_ends())
    clients = [asyncio.create_task(crowd.client(number)) for number in crowd.numbers]
    everybody = asyncio.create_task(crowd.account.everybody.wait())
    await asyncio.wait((end, everybody), return_when=asyncio.FIRST_COMPLETED)
    print("ready", flush=True)
    await end
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--half-open", type=int, default=2000)
    parser.add_argument("--slow", type=int, default=200)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--user", default="", metavar="NAME:PASSWORD")
    args = parser.parse_args()
    wanted = args.half_open + args.slow + 64
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    crowd = Crowd(args.port, args.half_open, args.slow, tls=args.tls, user=args.user)
    asyncio.run(gather(crowd))
    account = crowd.account
    print(json.dumps({"visits": account.visits, "refused": account.refused, "most": account.most}))


if __name__ == "__main__":
    main()
