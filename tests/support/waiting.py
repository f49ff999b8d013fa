"""Deadlines: the one loop that waits for a condition."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["happens", "holds", "wait_for"]

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T], seconds: float = 30.0, message: str | Callable[[], object] = "", *, every: float = 0.02
) -> T:
    """The first true value of `condition`, which is evaluated every `every` seconds. Raises TimeoutError after
    `seconds`, with `message` or what that returns then. An exception of the condition ends the wait.
    """
    __tracebackhide__ = True
    value = _poll(condition, seconds, every)
    if not value:
        reason = message if isinstance(message, str) else message()
        raise TimeoutError(f"not within {seconds:g} s: {reason or condition}")
    return value


def happens(condition: Callable[[], object], seconds: float, *, every: float = 0.01) -> bool:
    """Whether the condition becomes true within so many seconds."""
    return bool(_poll(condition, seconds, every))


def holds(condition: Callable[[], object], seconds: float, *, every: float = 0.01) -> bool:
    """Whether the condition stays true for so many seconds."""
    return not happens(lambda: not condition(), seconds, every=every)


def _poll(condition: Callable[[], T], seconds: float, every: float) -> T:
    """The condition's first true value, or its last one."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() <= deadline:
        time.sleep(every)
    return value
