"""Checks of the listen address of the metrics, and of the web configuration file."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.doctor.check import Check, failure, from_error, ok, warning
from samepaged.errors import ConfigError, SamepagedError
from samepaged.web.address import is_loopback, resolve
from samepaged.web.config_file import load

if TYPE_CHECKING:
    from collections.abc import Collection

    from samepaged.config import ExportConfig
    from samepaged.web.config_file import LoadedConfig

__all__ = [
    "Address",
    "Listener",
    "conflicting_listener",
    "listen_address",
    "network",
    "parse_listeners",
    "web_configuration",
]

TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
PRIVILEGED: Final = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
# The state in these tables (include/net/tcp_states.h).
LISTENING: Final = "0A"
TIMEOUT_SECONDS: Final = 2.0
# More than the size of the page /-/healthy.
MAX_RESPONSE_BYTES: Final = 1 << 14


class Listener(Enum):
    """The process that listens at an address."""

    NONE = auto()
    SAMEPAGED = auto()
    OTHER = auto()
    UNKNOWN = auto()
    """The response does not identify the process."""


@dataclass(frozen=True, slots=True)
class Address:
    """State of a listen address. `loopback`: whether only this host can reach it. `bind_error`: the reason why this
    host cannot listen there, None if it can. `listener`: the process that listens there. `min_unprivileged_port`: the
    lowest port that does not need a capability.
    """

    listen: str
    port: int
    loopback: bool
    bind_error: str | None
    listener: Listener
    min_unprivileged_port: int = 1024


def listen_address(address: Address, held: Collection[str], *, encrypted: bool) -> list[Check]:
    """Check whether the metrics can be served at this address, and whether the network can read them. `held`: the
    capabilities of this process.
    """
    name = "listen address"
    checks = []
    if address.bind_error is not None:
        checks.append(
            failure(
                name,
                f"cannot listen on {address.listen}: {address.bind_error}",
                "set export.listen to an address that this host has, such as 127.0.0.1:9953",
            )
        )
    elif address.listener is Listener.OTHER:
        checks.append(
            failure(
                name,
                f"another program listens on {address.listen}",
                f"stop that program (ss -ltnp 'sport = :{address.port}'), or set export.listen to another port",
            )
        )
    elif address.listener is Listener.UNKNOWN:
        checks.append(
            warning(
                name,
                f"a program listens on {address.listen}, and its response does not show whether it is samepaged",
                f"identify the program: ss -ltnp 'sport = :{address.port}'",
            )
        )
    elif 0 < address.port < address.min_unprivileged_port and "CAP_NET_BIND_SERVICE" not in held:
        checks.append(
            failure(
                name,
                f"{address.listen} needs CAP_NET_BIND_SERVICE, and this process does not have it",
                f"set export.listen to a port of {address.min_unprivileged_port} or more",
            )
        )
    if not (address.loopback or encrypted or address.bind_error):
        checks.append(
            warning(
                name,
                f"other hosts can reach {address.listen}, and it is not encrypted: names and sharing of the guests are "
                "readable on the network",
                f"set export.listen to 127.0.0.1:{address.port}, or configure TLS (docs/operate/web.md)",
            )
        )
    if checks:
        return checks
    taken = "; samepaged listens there now" if address.listener is Listener.SAMEPAGED else ""
    kind = "this host only" if address.loopback else "encrypted"
    return [ok(name, f"{address.listen}, {kind}{taken}")]


def web_configuration(path: Path | None, loaded: LoadedConfig | ConfigError | None) -> list[Check]:
    """Check the web configuration file. `loaded`: its content or its error, None if no file is configured."""
    name = "web configuration"
    if loaded is None:
        return []
    if isinstance(loaded, ConfigError):
        return [from_error(name, loaded, "see docs/operate/web.md")]
    has = [
        *(["TLS"] if loaded.tls is not None else []),
        *([f"passwords of {len(loaded.config.basic_auth_users)} users"] if loaded.config.basic_auth_users else []),
    ]
    return [ok(name, f"{path}: {' and '.join(has) or 'without TLS and passwords'}")]


def parse_listeners(table: str) -> set[tuple[str, int]]:
    """Return the addresses and ports with a listener, from the text of /proc/net/tcp or tcp6 (proc(5))."""
    found = set()
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 3 and words[3] == LISTENING:  # noqa: PLR2004 - number, local, remote, state
            host, _, port = words[1].partition(":")
            # Each 32-bit word is in the host's byte order: little-endian on x86-64.
            octets = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
            found.add((str(ipaddress.ip_address(octets)), int(port, 16)))
    return found


def conflicting_listener(ip: str, port: int, listening: Collection[tuple[str, int]]) -> str | None:
    """Return the address of a listener that conflicts with a listener at `ip`, or None."""
    own = ipaddress.ip_address(ip.partition("%")[0])
    for one, at in sorted(listening):
        other = ipaddress.ip_address(one)
        if at == port and (own == other or own.is_unspecified or other.is_unspecified):
            return one
    return None


def _bind_error(family: int, ip: str) -> str | None:
    """Return the reason why this host cannot listen at an address, or None. It binds any free port and releases it."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as own:
            own.bind((ip, 0))
    except OSError as error:
        return error.strerror or str(error)
    return None


def _listening() -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    for table in TABLES:
        try:
            found |= parse_listeners(table.read_text())
        except (OSError, ValueError):
            continue
    return found


def _identify(connection: http.client.HTTPConnection) -> Listener | None:
    """Return the listener that responds; None if the response is not of this protocol."""
    try:
        connection.request("GET", "/-/healthy")
        answer = connection.getresponse()
        said = f"{answer.headers}".encode() + answer.read(MAX_RESPONSE_BYTES)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    if b"samepaged" in said:
        return Listener.SAMEPAGED
    # A listener that demands a password first can be any program.
    return Listener.UNKNOWN if answer.status == http.client.UNAUTHORIZED else Listener.OTHER


def _find_listener(ip: str, port: int) -> Listener:
    """Return the listener at this address, identified by its response to a samepaged request."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(ip, ip)  # noqa: S104 - all addresses: query one of them
    unverified = ssl._create_unverified_context()  # noqa: S323, SLF001 - sends no secret, and trusts no response
    found = _identify(http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS))
    if found is not Listener.SAMEPAGED:  # TLS servers respond to plain text in different ways
        found = _identify(http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=unverified)) or found
    return found or Listener.UNKNOWN


def _min_unprivileged_port() -> int:
    try:
        return int(PRIVILEGED.read_text())
    except (OSError, ValueError):
        return 1024


def _load(path: Path | None) -> LoadedConfig | ConfigError | None:
    try:
        return None if path is None else load(path, {})
    except ConfigError as error:
        return error


def network(export: ExportConfig, held: Collection[str]) -> list[Check]:
    """Return all checks of the metrics endpoint. `held`: the capabilities of this process."""
    loaded = _load(export.web_config_file)
    encrypted = loaded is not None and not isinstance(loaded, ConfigError) and loaded.tls is not None
    if export.listen is None or export.address is None:
        return [ok("listen address", "none: export.listen is null, so samepaged does not open a port")]
    served = _address(export.listen, export.address, held, encrypted=encrypted)
    return [*served, *web_configuration(export.web_config_file, loaded)]


def _address(written: str, address: tuple[str, int], held: Collection[str], *, encrypted: bool) -> list[Check]:
    try:
        resolved = resolve(*address)
    except SamepagedError as error:
        return [from_error("listen address", error, "set export.listen to an address that this host has")]
    ip, port = resolved.address[:2]
    at = conflicting_listener(ip, port, _listening()) if port else None
    found = Address(
        listen=written,
        port=port,
        loopback=is_loopback(ip),
        bind_error=_bind_error(resolved.family, ip),
        listener=Listener.NONE if at is None else _find_listener(at, port),
        min_unprivileged_port=_min_unprivileged_port(),
    )
    return listen_address(found, held, encrypted=encrypted)
