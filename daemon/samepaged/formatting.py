"""Sizes, times and ratios as text."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["ppm", "rfc3339", "seconds", "size"]


def size(amount: int) -> str:
    """`amount` of bytes in at most 8 characters: whole KiB, or three digits of MiB, GiB or TiB."""
    if amount < 1 << 20:
        return f"{amount / 1024:.0f} KiB"
    value = amount / (1 << 20)
    for unit in ("MiB", "GiB"):
        if value < 1023.5:  # noqa: PLR2004 - what would be printed as 1024 is 1 of the next unit
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
