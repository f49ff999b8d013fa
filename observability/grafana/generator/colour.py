"""Grafana's colours with the same meaning on all dashboards."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Colour"]


class Colour(StrEnum):
    """Grafana's names of colours, which adapt to light and dark themes."""

    SELF = "green"
    INTER = "purple"
    STABLE = "yellow"
    MERGED = "blue"
    COST = "orange"
    LIMIT = "red"
