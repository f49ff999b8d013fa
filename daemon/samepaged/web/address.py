"""Where to listen, and why not."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any, Final, NamedTuple

from samepaged.errors import SamepagedError

__all__ = ["Address", "bind", "is_loopback", "resolve", "written"]

BACKLOG: Final = 4096  # the kernel's own bound (net.core.somaxconn) is below it, or the same
REMEDIES: Final = {
    errno.EADDRINUSE: "stop what listens there, or choose another address",
    errno.EACCES: "choose a port from 1024 upwards",
}
OTHER_REMEDY: Final = "choose an address that this host has"


class Address(NamedTuple):
    """What to bind to: the address family, what `socket.bind` takes, and how people write it."""

    family: int
    address: Any
    name: str


def written(host: str, port: int) -> str:
    """`host:port` or `[v6]:port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str, port: int) -> Address:
    """The first address of `host` ("": all of this host). Raises SamepagedError where there is none."""
    name = written(host, port)
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError, OverflowError) as error:
        raise _refusal(name, error) from error
    family, _, _, _, address = found[0]
    return Address(family, address, name)


def bind(address: Address) -> socket.socket:
    """A socket that listens on `address`, not blocking. Raises SamepagedError, whose cause is the OSError."""
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
    """Whether `host`, as getsockname tells it, is reached from this host alone."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refusal(name: str, error: OSError | UnicodeError | OverflowError) -> SamepagedError:
    number, what = (error.errno, error.strerror) if isinstance(error, OSError) else (None, str(error))
    return SamepagedError(f"cannot listen on {name}: {what}", REMEDIES.get(number or 0, OTHER_REMEDY))
