"""Deadlines: the only loop that waits for a condition."""

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
    """Return the first true value of `condition`, evaluated every `every` seconds. Raises TimeoutError after `seconds`,
    with `message` or its return value at that time. An exception in the condition ends the wait.
    """
    __tracebackhide__ = True
    value = _poll(condition, seconds, every)
    if not value:
        reason = message if isinstance(message, str) else message()
        raise TimeoutError(f"not within {seconds:g} s: {reason or condition}")
    return value


def happens(condition: Callable[[], object], seconds: float, *, every: float = 0.01) -> bool:
    """Whether the condition becomes true within this number of seconds."""
    return bool(_poll(condition, seconds, every))


def holds(condition: Callable[[], object], seconds: float, *, every: float = 0.01) -> bool:
    """Whether the condition stays true for this number of seconds."""
    return not happens(lambda: not condition(), seconds, every=every)


def _poll(condition: Callable[[], T], seconds: float, every: float) -> T:
    """Return the condition's first true value, or its last value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() <= deadline:
        time.sleep(every)
    return value
