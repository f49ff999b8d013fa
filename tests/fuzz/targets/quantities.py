"""Configuration values with a unit or a special form, checked against independent arithmetic.

An input's first octet selects the kind of value, the second the form of the rest.
"""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from samepaged.config.quantities import Directory, Drift, Duration, Interval, Listen, PageSize, Seed, Size, address
from tests.fuzz.target import Target

TYPES: Final[tuple[Any, ...]] = (Duration, Interval, Size, PageSize, Seed, Directory, Listen, Drift)
KINDS: Final = {kind: TypeAdapter[Any](kind) for kind in TYPES}
SECONDS: Final = {"ms": Fraction(1, 1000), "s": 1, "m": 60, "h": 3600, "d": 86400}
OCTETS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
TEXTS: Final = ("250ms", "90s", "1.5h", "365d", "0.000000001d", "1 d", "2KiB", "2097152", "1.5TiB", "0x1f", "/run/a")
ADDRESSES: Final = ("127.0.0.1:9953", "[::1]:0", "[fe80::1%eth0]:80", "localhost:65535", "a-b.example:1", "0.0.0.0:1")
WORDS: Final = tuple(
    word.encode()
    for word in (*TEXTS, *ADDRESSES, *SECONDS, *OCTETS, ".", ":", "[", "]", "%", "/", "..", "xn--", "-", "_")
)


def check(data: bytes) -> None:
    kind, adapter = list(KINDS.items())[data[0] % len(KINDS) if data else 0]
    written = _value(data[1] if len(data) > 1 else 0, data[2:].decode("utf-8", "replace"))
    try:
        value = adapter.validate_python(written)
    except ValidationError as refused:
        raise Refusal(*(error["msg"] for error in refused.errors())) from None
    CHECKS[kind](value, written)


class Refusal(Exception):  # noqa: N818 - not an error: pydantic's messages, one per line
    """The messages of pydantic."""

    @property
    def problems(self) -> tuple[str, ...]:
        return self.args


def _value(how: int, text: str) -> object:
    """Return the text itself, or the number that it represents, or another value that YAML may contain."""
    readers: tuple[Any, ...] = (str, str, str, int, float, bool, lambda _: None, lambda t: [t])
    try:
        return readers[how % len(readers)](text)
    except ValueError:
        return text


def _exact(written: Any, units: dict[str, Any]) -> Fraction:
    if not isinstance(written, str):
        return Fraction(written)
    number, unit = re.findall(r"[0-9.]+|[A-Za-z]+", written)
    return Fraction(number) * Fraction(units[unit])


def _duration(value: float, written: Any) -> None:
    assert 0 < value <= 365 * 86400
    assert value == float(_exact(written, SECONDS))


def _drift(value: float, written: Any) -> None:
    assert 0 < value <= 1
    assert value == float(_exact(written, {"ppm": Fraction(1, 10**6)}))


def _interval(value: float, written: Any) -> None:
    _duration(value, written)
    assert value >= 1


def _size(value: int, written: Any) -> None:
    assert 0 <= value < 1 << 63
    assert value == _exact(written, OCTETS)


def _page_size(value: int, written: Any) -> None:
    _size(value, written)
    assert value in {1 << exponent for exponent in range(10, 22)}


def _seed(value: int | None, written: Any) -> None:
    assert value is None or 0 <= value < 1 << 64
    assert value == (int(written, 16) if isinstance(written, str) else written)


def _directory(value: Path, written: Any) -> None:
    assert value.is_absolute()
    assert os.fspath(value) == os.fspath(Path(written))
    assert b"\0" not in os.fsencode(value)


def _listen(value: str, written: Any) -> None:
    assert value == written
    host, port = address(value)
    assert 0 <= port < 1 << 16
    assert host.isprintable()
    assert value in {f"{host}:{port}", f"[{host}]:{port}"} or value.rpartition(":")[2].startswith("0")
    host.encode("idna")  # as the socket module encodes it


CHECKS: Final[dict[Any, Any]] = {
    Duration: _duration,
    Interval: _interval,
    Size: _size,
    PageSize: _page_size,
    Seed: _seed,
    Directory: _directory,
    Listen: _listen,
    Drift: _drift,
}
TAKEN: Final = ("250ms", "90s", "512MiB", "64KiB", "0x1f", "/run/samepaged", "127.0.0.1:9953", "500ppm")

TARGET = Target(
    check,
    seeds=(
        *(bytes([number, 0]) + text.encode() for number, text in enumerate(TAKEN)),
        *(bytes([number, 3]) + b"4096" for number in range(5)),
        *(bytes([6, 0]) + text.encode() for text in ADDRESSES),
        *(bytes([number, 4]) + b"1.5" for number in (0, 1)),
        bytes([4, 6]),
    ),
    words=WORDS,
    refusals=(Refusal,),
    longest=512,
)
