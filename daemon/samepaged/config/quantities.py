"""Values with a unit or a special form: durations, sizes, seeds, directories, addresses.

The types are for fields of pydantic models. They refuse a value with an `InvalidValueError`.
Their JSON schema has the name of the form as `format`, and the bounds of the type. `model_dump(mode="json")` returns
values in the form of a configuration file.
"""

from __future__ import annotations

import re
from decimal import Decimal
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from samepaged.errors import InvalidValueError
from samepaged.yaml_document import shown

__all__ = ["Directory", "Drift", "Duration", "File", "Interval", "Listen", "PageSize", "Seed", "Size", "address"]
__all__ += ["DURATION_UNITS", "LONGEST_DURATION", "SIZE_UNITS"]
__all__ += ["drift", "duration", "duration_text", "page_size", "size", "size_text"]

DURATION_UNITS: Final = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
SIZE_UNITS: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_QUANTITY: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)", re.ASCII)
_HEX_SEED: Final = re.compile(r"0x[0-9A-Fa-f]{1,16}")
_ADDRESS: Final = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*)):([0-9]{1,5})", re.ASCII)
# Labels of 1 to 63 octets (RFC 1035, 2.3.4): for any other, Python's name lookup raises an unusual error.
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\.?")
# The name of an interface in a link-local address, `fe80::1%eth0`; Python treats it as a part of a host name, too.
_SCOPE: Final = re.compile(rf"(?=.{{1,15}}\Z){_LABEL}(?:\.{_LABEL})*")
_NUMERIC_HOST: Final = re.compile(r"[0-9.]+")

_MIN_INTERVAL_SECONDS: Final = 1.0
# Smaller drifts are written in ppm, others as a ratio.
_LARGEST_PPM: Final = 10_000
LONGEST_DURATION: Final = 365 * 86400.0
_MIN_PAGE_BYTES: Final = 2**10
_MAX_PAGE_BYTES: Final = 2**21
_MAX_SIZE_BYTES: Final = 2**63 - 1
_MAX_SEED: Final = 2**64 - 1
_MAX_PORT: Final = 2**16 - 1
_MILLION: Final = 10**6


def duration(value: object) -> float:
    """Parse a duration in seconds: a number of seconds, or a number and a unit as in `90s`. Raises ValueError."""
    seconds = _seconds(value)
    if not seconds > 0:  # also refuses NaN
        raise InvalidValueError(f"{shown(value)} is not longer than 0", "use a duration such as 250ms or 15m")
    if seconds > LONGEST_DURATION:
        raise InvalidValueError(f"{shown(value)} is too long", "use at most 365d")
    return seconds


def _interval(value: object) -> float:
    seconds = duration(value)
    if seconds < _MIN_INTERVAL_SECONDS:
        raise InvalidValueError(f"{shown(value)} is too short", "use at least 1s")
    return seconds


def _seconds(value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # An int can exceed the range of a float; the clamped value is still refused as too long.
        return float(max(min(value, 2**63), -1))
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in DURATION_UNITS:
        raise InvalidValueError(
            f"{shown(value)} is not a duration",
            "write a number and ms, s, m, h or d, such as 90s, or a number of seconds",
        )
    return float(Decimal(match[1]) * DURATION_UNITS[match[2]])


def size(value: object) -> int:
    """Parse a size in bytes: a whole number of bytes, or a number and a unit as in `512MiB`. Raises ValueError."""
    count: Decimal | int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        count = value
    elif isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2] in SIZE_UNITS:
        count = Decimal(match[1]) * SIZE_UNITS[match[2]]
    if count is None or count != int(count):
        raise InvalidValueError(
            f"{shown(value)} is not a size",
            "write a number and B, KiB, MiB, GiB or TiB, such as 512MiB, or a whole number of bytes",
        )
    if not 0 <= count <= _MAX_SIZE_BYTES:
        raise InvalidValueError(f"{shown(value)} is out of range", f"use a size from 0 to {_MAX_SIZE_BYTES} bytes")
    return int(count)


def drift(value: object) -> float:
    """Parse a ratio above 0, up to 1: a number, or parts per million as in `500ppm`. Raises ValueError."""
    ratio: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        ratio = float(max(min(value, 2.0), -1.0))
    elif isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2] == "ppm":
        ratio = float(Decimal(match[1]) / _MILLION)
    if ratio is None:
        raise InvalidValueError(f"{shown(value)} is not a drift", "write a number and ppm, such as 500ppm, or a ratio")
    if not 0 < ratio <= 1:  # also refuses NaN
        raise InvalidValueError(
            f"{shown(value)} is out of range", "use a drift above 0ppm, to 1000000ppm (a ratio of 1)"
        )
    return ratio


def page_size(value: object) -> int:
    """Parse a page size in bytes. Raises ValueError."""
    found = size(value)
    if found.bit_count() != 1 or not _MIN_PAGE_BYTES <= found <= _MAX_PAGE_BYTES:
        raise InvalidValueError(f"{shown(value)} is not a page size", "use a power of two from 1KiB to 2MiB")
    return found


def _seed(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_SEED:
        return value
    if isinstance(value, str) and _HEX_SEED.fullmatch(value):
        return int(value, 16)
    # The message does not quote the value: it can be the mistyped secret.
    raise InvalidValueError(
        "is not a seed of 64 bits",
        'use a whole number from 0 to 2**64-1, "0x" and up to 16 hexadecimal digits, or null',
    )


def _directory(value: object) -> Path:
    # `run`, and `recover` after it, must find the same journal from any working directory.
    return _absolute(value, "directory")


def _file(value: object) -> Path:
    return _absolute(value, "file")  # another process with another working directory reads it


def _absolute(value: object, what: str) -> Path:
    if not isinstance(value, str | Path) or "\0" in str(value) or not Path(value).is_absolute():
        raise InvalidValueError(
            f"{shown(value)} is not an absolute path", f"write the path of a {what} that begins with /"
        )
    return Path(value)


def _listen(value: object) -> str:
    if not isinstance(value, str):
        remedy = 'write "host:port" in quotes, such as "127.0.0.1:9953"'
        raise InvalidValueError(f"{shown(value)} is not an address", remedy)
    address(value)
    return value


def address(text: str) -> tuple[str, int]:
    """Parse `host:port` or `[v6]:port` into host (IPv6 addresses without brackets) and port. Raises ValueError."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise InvalidValueError(f"{shown(text)} is not an address", 'write "host:port", or "[address]:port" for IPv6')
    v6, host, port = match[1], match[2], int(match[3])
    if port > _MAX_PORT:
        raise InvalidValueError(f"{port} is not a port", f"use 0 to {_MAX_PORT}; 0 takes any free port")
    try:
        scope = None if v6 is None else IPv6Address(v6).scope_id
        if host is not None and _NUMERIC_HOST.fullmatch(host):
            IPv4Address(host)
    except AddressValueError:
        raise InvalidValueError(f"{shown(v6 or host)} is not an IP address", "correct it") from None
    if scope is not None and not _SCOPE.fullmatch(scope):
        raise InvalidValueError(
            f"{shown(scope)} is not the name of a network interface", "correct the part after the %"
        )
    if v6 is not None:
        return v6, port
    if not host:
        raise InvalidValueError(
            f"{shown(text)} names no host", f'write "0.0.0.0:{port}" or "[::]:{port}" for all addresses'
        )
    if not _HOST_NAME.fullmatch(host):
        raise InvalidValueError(
            f"{shown(host)} is not a host name", "use letters, digits, dots and hyphens, or an IP address"
        )
    return host, port


def duration_text(seconds: float) -> str | float:
    """`seconds` in the largest unit that gives a whole number, such as `15m`; the number itself if no unit does."""
    exact = Decimal(repr(seconds))
    for name, unit in reversed(DURATION_UNITS.items()):
        if exact and not exact % unit:
            return f"{exact // unit:f}{name}"
    return seconds


def size_text(octets: int) -> str | int:
    """`octets` in the largest unit above a byte that gives a whole number, such as `1GiB`; else the number itself."""
    for name, unit in reversed(SIZE_UNITS.items()):
        if unit > 1 and octets and not octets % unit:
            return f"{octets // unit}{name}"
    return octets


def _drift_text(ratio: float) -> str | float:
    parts = Decimal(repr(ratio)) * _MILLION
    return f"{parts.to_integral():f}ppm" if not parts % 1 and parts < _LARGEST_PPM else ratio


_DURATION_TEXT: Final = PlainSerializer(duration_text, when_used="json")
_SIZE_TEXT: Final = PlainSerializer(size_text, when_used="json")

Duration = Annotated[
    float, BeforeValidator(duration), _DURATION_TEXT, WithJsonSchema({"format": "duration", "exclusiveMinimum": 0})
]
"""Seconds, above 0 and at most a year, from `250ms`, `90s`, `15m`, `6h`, `1d`, or a number of seconds."""

Interval = Annotated[
    float,
    BeforeValidator(_interval),
    _DURATION_TEXT,
    WithJsonSchema({"format": "duration", "minimum": duration_text(_MIN_INTERVAL_SECONDS)}),
]
"""A `Duration` of at least a second."""

Drift = Annotated[
    float,
    BeforeValidator(drift),
    PlainSerializer(_drift_text, when_used="json"),
    WithJsonSchema({"format": "drift", "exclusiveMinimum": 0, "maximum": 1}),
]
"""A ratio above 0, up to 1, from `500ppm` or a number."""

Size = Annotated[int, BeforeValidator(size), _SIZE_TEXT, WithJsonSchema({"format": "size"})]
"""Bytes, at least 0, from `512MiB` or a number of bytes."""

PageSize = Annotated[
    int,
    BeforeValidator(page_size),
    _SIZE_TEXT,
    WithJsonSchema(
        {"format": "page size", "minimum": size_text(_MIN_PAGE_BYTES), "maximum": size_text(_MAX_PAGE_BYTES)}
    ),
]
"""A `Size` that is a power of two from 1 KiB to 2 MiB."""

Seed = Annotated[int | None, BeforeValidator(_seed), WithJsonSchema({"format": "seed"})]
"""64 bits, from a number or from `0x` and hexadecimal digits."""

Directory = Annotated[Path, BeforeValidator(_directory), WithJsonSchema({"format": "absolute path"})]
"""The absolute path of a directory, which can be missing."""

File = Annotated[Path, BeforeValidator(_file), WithJsonSchema({"format": "absolute path"})]
"""The absolute path of a file."""

Listen = Annotated[str, BeforeValidator(_listen), WithJsonSchema({"format": "address"})]
"""An address to listen on, in its original form; `address` parses it."""
