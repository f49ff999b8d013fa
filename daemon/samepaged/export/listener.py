"""A TCP server whose threads are few and whose connections are short, whatever its clients do."""

from __future__ import annotations

import errno
import logging
import socket
import socketserver
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from samepaged.errors import SamepagedError

__all__ = ["Listener", "ResolvedAddress", "resolve"]

_log = logging.getLogger(__name__)

_REMEDIES: Final = {
    errno.EADDRINUSE: "stop what listens there, or choose another address",
    errno.EACCES: "choose a port from 1024 upwards",
}
_OTHER_REMEDY: Final = "choose an address that this host has"
_GRACE_SECONDS: Final = 1.0


class ResolvedAddress(NamedTuple):
    """What to bind to: the address family, what `socket.bind` takes, and how people write it."""

    family: int
    address: Any
    name: str


def resolve(listen: tuple[str, int]) -> ResolvedAddress:
    """The first address of `listen` (host or "" for all, port). Raises SamepagedError where there is none."""
    host, port = listen
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise _refusal(name, error) from error
    family, _, _, _, address = found[0]
    return ResolvedAddress(family, address, name)


@dataclass(slots=True, eq=False)
class _Connection:
    socket: socket.socket
    opened: float = field(default_factory=time.monotonic)
    asked: bool = False
    alive: bool = True

    @property
    def age(self) -> float:
        return time.monotonic() - self.opened

    def cut(self) -> None:
        """Wake the thread that reads or writes it, with an end of file or a broken pipe."""
        self.alive = False
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            _log.debug("the peer had gone: %s", error)


class Listener(socketserver.TCPServer):
    """Binds to `address` at once, and handles each connection in a thread of its own.

    At most `workers` connections live at a time, each for at most `deadline` seconds. When there are as many, a new one
    takes the place of the oldest that still owes its request, or that does not take its answer; else it is closed.
    Raises SamepagedError where the address cannot be had.
    """

    # Not http.server.HTTPServer: its bind looks its own host name up, which can take as long as DNS does.
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self,
        address: ResolvedAddress,
        handler: type[socketserver.BaseRequestHandler],
        *,
        workers: int,
        deadline: float,
    ) -> None:
        self.address_family = address.family
        self._workers = workers
        self._deadline = deadline
        self._lock = threading.Lock()
        self._open: dict[Any, _Connection] = {}
        try:
            super().__init__(address.address, handler)
        except OSError as error:
            raise _refusal(address.name, error) from error

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - socketserver's signature
        """Start a thread for a new connection, if there is room for it or can be made."""
        with self._lock:
            admitted = self._room()
            if admitted:
                self._open[request] = _Connection(request)
        if admitted:
            threading.Thread(target=self._serve, args=(request, client_address), name="web-client", daemon=True).start()
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401 - as in process_request
        """Close a connection, and forget it."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut what is older than the deadline. A socket's timeout alone would not: each byte starts it anew."""
        self.cut_connections(self._deadline)

    def stop(self) -> None:
        """End `serve_forever`, close the listening socket, and cut every connection."""
        # Wakes the poll that serve_forever sleeps in: Linux reports a listening socket that is shut down as hung up.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        self.server_close()
        self.cut_connections()

    def cut_connections(self, age: float = 0.0) -> None:
        """Cut every connection that is at least `age` seconds old."""
        with self._lock:
            for one in self._open.values():
                if one.age >= age:
                    one.cut()

    def asked(self, request: socket.socket) -> None:
        """Note that the request has arrived whole: from now on it is we who owe."""
        with self._lock:
            if request in self._open:
                self._open[request].asked = True

    def _room(self) -> bool:
        living = [one for one in self._open.values() if one.alive]
        if len(living) < self._workers:
            return len(self._open) < 2 * self._workers
        # The thread of a connection that is cut ends when it next touches the socket: one that never does (a renderer
        # that hangs) must not be let to make ever more threads.
        idle = [one for one in living if not one.asked or one.age > _GRACE_SECONDS]
        if not idle or len(self._open) >= 2 * self._workers:
            return False
        min(idle, key=lambda one: one.opened).cut()
        return True

    def _serve(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as in process_request
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            _log.debug("a client went away: %s", error)
        except Exception:  # noqa: BLE001 - logged; the thread ends here in any case
            _log.exception("a request failed")
        finally:
            self.shutdown_request(request)


def _refusal(name: str, error: OSError | UnicodeError) -> SamepagedError:
    number, what = (error.errno, error.strerror) if isinstance(error, OSError) else (None, str(error))
    return SamepagedError(f"cannot listen on {name}: {what}; {_REMEDIES.get(number or 0, _OTHER_REMEDY)}")
