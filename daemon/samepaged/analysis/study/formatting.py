"""Names and missing values in tables and figures of the study."""

from __future__ import annotations

from typing import Final

from samepaged.escape import printable

__all__ = ["DASH", "named", "percent"]

DASH: Final = "-"
"""Stands for a missing value."""


def named(domain: str) -> str:
    """Return a domain's name on one line."""
    return printable(domain) or "(no name)"


def percent(ratio: float | None) -> str:
    """Format a ratio in percent with one decimal, so that the values of a column line up."""
    return DASH if ratio is None else f"{ratio:.1%}"
