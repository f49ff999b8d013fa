"""Numbers and names as tables and figures tell them."""

from __future__ import annotations

from typing import Final

from samepaged.escape import printable

__all__ = ["DASH", "amount", "named", "percent", "span"]

DASH: Final = "-"
"""For what there is not."""


def amount(octets: float) -> str:
    """Bytes in three digits and a unit."""
    value, unit = octets / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < 1023.5:  # noqa: PLR2004 - what would be printed as 1024 is 1 of the next unit
            break
        value, unit = value / 1024, larger
    decimals = 0 if unit == "KiB" or value >= 99.95 else 1 if value >= 9.995 else 2  # noqa: PLR2004 - three digits
    return f"{value:.{decimals}f} {unit}"


def named(domain: str) -> str:
    """A domain's name, on one line."""
    return printable(domain) or "(no name)"


def percent(ratio: float | None) -> str:
    """A ratio in per cent, with a digit after the point."""
    return DASH if ratio is None else f"{100 * ratio:.1f}%"


def span(seconds: float) -> str:
    """A time as people say it."""
    for length, unit, most in ((1, "s", 120), (60, "min", 120), (3600, "h", 72)):
        if seconds / length < most:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"
