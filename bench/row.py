"""A benchmark figure and its bounds."""

from __future__ import annotations

from typing import NotRequired, TypedDict

__all__ = ["Row", "line"]


class Row(TypedDict):
    """One entry of bench/results.json."""

    name: str
    value: float
    unit: str
    at_least: NotRequired[float]
    at_most: NotRequired[float]


def met(row: Row) -> bool:
    """Return whether the figure is within its bounds."""
    return row.get("at_least", float("-inf")) <= row["value"] <= row.get("at_most", float("inf"))


def line(row: Row) -> str:
    """Return the figure as a line of the table."""
    wanted = f">= {row['at_least']:g}" if "at_least" in row else f"<= {row['at_most']:g}" if "at_most" in row else ""
    mark = "" if met(row) else "  MISSED"
    return f"{row['name']:<66} {row['value']:>9.4g} {row['unit']:<12} {wanted}{mark}"
