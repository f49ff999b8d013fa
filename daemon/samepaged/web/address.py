"""Listening addresses, and errors of listening."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any, Final, NamedTuple

from samepaged.errors import SamepagedError

__all__ = ["Address", "bind", "is_loopback", "resolve", "written"]

BACKLOG: Final = 4096  # the kernel reduces it to net.core.somaxconn
REMEDIES: Final = {
    errno.EADDRINUSE: "stop the program that listens there, or choose another address",
    errno.EACCES: "choose a port of 1024 or more",
}
OTHER_REMEDY: Final = "choose an address of this host"


class Address(NamedTuple):
    """A listening address: the address family, the argument of `socket.bind`, and the name for messages."""

    family: int
    address: Any
    name: str


def written(host: str, port: int) -> str:
    """Return `host:port` or `[v6]:port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str, port: int) -> Address:
    """Return the first address of `host` ("": all addresses of this host). Raises SamepagedError if there is none."""
    name = written(host, port)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as error:
        raise _refusal(name, error) from error
    family, _, _, _, address = found[0]
    return Address(family, address, name)


def bind(address: Address) -> socket.socket:
    """Return a non-blocking socket that listens on `address`. Raises SamepagedError, with the OSError as its cause."""
    try:
        listener = socket.socket(address.family, socket.SOCK_STREAM)
    except OSError as error:
        raise _refusal(address.name, error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address.address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _refusal(address.name, error) from error
    return listener


def is_loopback(host: str) -> bool:
    """Return whether `host`, as returned by getsockname, is a loopback address."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refusal(name: str, error: OSError | UnicodeError | OverflowError) -> SamepagedError:
    number, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (None, str(error))
    return SamepagedError(f"cannot listen on {name}: {reason}", REMEDIES.get(number or 0, OTHER_REMEDY))
