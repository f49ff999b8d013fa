"""Lines for the person at the terminal: one for each step that takes a while."""

from __future__ import annotations

import time

__all__ = ["elapsed", "say"]

_BEGAN = time.monotonic()


def say(line: str) -> None:
    """Print `line` at once: the next step may take a while, or be another program that prints."""
    print(line, flush=True)  # noqa: T201  # a demo prints


def elapsed() -> str:
    """The time since the demo began, such as "12 s"."""
    return f"{time.monotonic() - _BEGAN:.0f} s"
