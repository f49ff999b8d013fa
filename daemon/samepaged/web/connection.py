"""One connection, from its first byte to its last: a handshake, requests and their replies, each with its deadline."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.web.request import Parser, Refusal, Reply
from samepaged.web.stream import PlainStream, Stream, TlsStream, hang_up
from samepaged.web.tls import admitted

if TYPE_CHECKING:
    from samepaged.web.config_reload import ReloadingConfig
    from samepaged.web.routes import Routes

__all__ = ["Connection", "Deadlines"]

log = logging.getLogger(__name__)

MOST_REQUESTS: Final = 1000
SLICE: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: for the TLS handshake; for a request, from its first byte (the first request: from the handshake) to its
    last; for the reply; and between two requests.
    """

    handshake: float = 5.0
    request: float = 5.0
    reply: float = 10.0
    idle: float = 90.0


class Connection:
    """Serves one client. `owing` tells whether the next move is the client's: such a one may be cut at any time."""

    def __init__(self, connection: socket.socket, site: Routes, config: ReloadingConfig, deadlines: Deadlines) -> None:
        self.owing = True
        self.began = asyncio.get_running_loop().time()
        self._socket = connection
        self._site = site
        self._config = config
        self._deadlines = deadlines

    async def run(self) -> None:
        """Until the client leaves, is late, or is refused. The connection is closed then."""
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # Else the kernel keeps up to 4 MiB for each client that does not take its reply (tcp_wmem, tcp(7)).
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SLICE)
            channel = await self._channel()
            if channel is not None:
                await self._requests(channel)
                async with asyncio.timeout(self._deadlines.handshake):
                    await channel.close()
            self.owing = True
            await hang_up(self._socket)
        except asyncio.CancelledError:
            # Ends here: a task that is cancelled keeps the exception, that its frames, and these the task. Thousands of
            # such circles a minute, collected at once, would be noticed by a scraper.
            log.debug("a client was cut")
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            log.debug("a client was let go: %s", error)
            error.__traceback__ = None  # and this is a circle, too, by way of the future of a read
        except Exception:
            log.exception("a request failed; please report it")
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection at once."""
        self._socket.close()

    async def _channel(self) -> Stream | None:
        """The channel to speak over; None for a client whose certificate has not the right names."""
        loaded = self._config.current().loaded
        plain = PlainStream(self._socket)
        if loaded.tls is None or loaded.config.tls_server_config is None:
            return plain
        async with asyncio.timeout(self._deadlines.handshake):
            first = await plain.receive()  # nothing is set up for a client that does not say a word
            secure = TlsStream(plain, loaded.tls, first)
            await secure.handshake()
        if admitted(loaded.config.tls_server_config, secure.session):
            return secure
        log.debug("a client was let go: its certificate has none of client_allowed_sans")
        return None

    async def _requests(self, channel: Stream) -> None:
        parser = Parser()
        for number in range(1, MOST_REQUESTS + 1):
            self.owing = True
            asked = parser.feed(b"")
            patience = self._deadlines.request if number == 1 else self._deadlines.idle
            async with asyncio.timeout(patience) as deadline:
                began = number == 1
                while asked is None:
                    data = await channel.receive()
                    if not data:
                        return
                    if not began:
                        began = True
                        deadline.reschedule(asyncio.get_running_loop().time() + self._deadlines.request)
                    asked = parser.feed(data)
            self.owing = False
            self.began = asyncio.get_running_loop().time()
            async with asyncio.timeout(self._deadlines.reply):
                if isinstance(asked, Refusal):
                    reply = Reply.line(asked.status, asked.text, ("X-Content-Type-Options", "nosniff"))
                else:
                    reply = await self._site.reply(asked, self._config.current())
                await _send(channel, *parser.reply(reply, last=number == MOST_REQUESTS))
            if not parser.reusable:
                return


async def _send(channel: Stream, head: bytes, body: bytes) -> None:
    """The head goes with the beginning of the body; the rest straight from the body, which others have, too."""
    view = memoryview(body)
    await channel.send(head + view[:SLICE])
    for start in range(SLICE, len(view), SLICE):
        await channel.send(view[start : start + SLICE])
