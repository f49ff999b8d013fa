"""The colours of Grafana that stand for one thing on every dashboard."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Colour"]


class Colour(StrEnum):
    """Names as Grafana has them, which it adapts to its light and dark themes."""

    SELF = "green"
    INTER = "purple"
    STABLE = "yellow"
    MERGED = "blue"
    COST = "orange"
    LIMIT = "red"
