"""Names from outside, made fit for a line on a terminal."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    """`text` as it is where it can be printed, else with escapes for what cannot: control, unassigned and format
    characters, such as right-to-left override.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
