"""Sizes, times and ratios as text."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

__all__ = ["clock", "duration", "percent", "plural", "ppm", "rfc3339", "seconds", "size", "time_of_day"]

_DAY_SECONDS: Final = 86400


def size(amount: float) -> str:
    """`amount` of bytes in at most 8 characters and a minus sign: whole KiB, or three digits of MiB, GiB or TiB."""
    if amount < 0:
        return f"\N{MINUS SIGN}{size(-amount)}"
    value = amount / 1024
    if value < 1023.5:  # noqa: PLR2004 - 1024 of a unit are 1 of the next
        return f"{value:.0f} KiB"
    value /= 1024
    for unit in ("MiB", "GiB"):
        if value < 1023.5:  # noqa: PLR2004 - as above
            return f"{_three_digits(value)} {unit}"
        value /= 1024
    return f"{_three_digits(value)} TiB"


def seconds(amount: float) -> str:
    """`amount` of seconds in at most 7 characters below 1000 s: three digits of ms or s."""
    if amount < 0.9995:  # noqa: PLR2004 - as in `size`
        return f"{_three_digits(amount * 1000)} ms"
    return f"{_three_digits(amount)} s"


def _three_digits(value: float) -> str:
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0  # noqa: PLR2004 - where rounding adds a digit
    return f"{value:.{decimals}f}"


def ppm(ratio: float) -> str:
    """A ratio in parts per million, as drifts of clocks are given."""
    return f"{ratio * 1e6:.0f} ppm"


def rfc3339(epoch: float) -> str:
    """A time in seconds of the Unix epoch as RFC 3339 has it, in UTC, to the millisecond."""
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def percent(part: float, whole: float = 1.0) -> str:
    """`part` of `whole` in percent: two digits, or one and a decimal. A dash if `whole` is 0."""
    if not whole:
        return "\N{EN DASH}"
    ratio = part / whole
    return f"{ratio:.0%}" if ratio == 0 or ratio >= 0.0995 else f"{ratio:.1%}"  # noqa: PLR2004 - 9.95% rounds to 10%


def duration(amount: float) -> str:
    """`amount` of seconds in one unit, rounded: 12 s, 4 min, 3 h, 2 days."""
    for length, unit, limit in ((1, "s", 100), (60, "min", 100), (3600, "h", 48)):
        if round(amount / length) < limit:
            return f"{max(round(amount / length), 0)} {unit}"
    return f"{round(amount / _DAY_SECONDS)} days"


def clock(epoch: float, now: float) -> str:
    """A time in seconds of the Unix epoch: time of day if it is the day of `now`, else date and time. In UTC."""
    at = datetime.fromtimestamp(epoch, UTC)
    same_day = epoch // _DAY_SECONDS == now // _DAY_SECONDS
    return f"{at:%H:%M:%S} UTC" if same_day else f"{at.day} {at:%B, %H:%M} UTC"


def time_of_day(epoch: float) -> str:
    """A time in seconds of the Unix epoch as hours and minutes, in UTC."""
    return f"{datetime.fromtimestamp(epoch, UTC):%H:%M}"


def plural(count: int, noun: str) -> str:
    """`1 guest`, `2 guests`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
