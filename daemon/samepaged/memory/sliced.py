"""Mode `sliced`: reads a guest in many short pauses. Each slice is exact, but the slices are of different instants."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.drift.budget import UNLIMITED, budget_error
from samepaged.memory.hashing import Interrupted
from samepaged.memory.modes import SLICE_RATIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from samepaged.drift.budget import DriftBudget
    from samepaged.memory.process_ram import ProcessRam
    from samepaged.memory.reader import Pause

__all__ = ["read_sliced"]

# Pages read between two checks of the clock: 8 MiB, which takes a few milliseconds.
STEP_PAGES: Final = 2048
NAP_SECONDS: Final = 0.05
# The shortest slice that is worth a suspension, as a ratio to the time for suspending and resuming.
MIN_SLICE_RATIO: Final = 0.5
# Limit for the wait of a scan without remaining drift budget until earlier pauses leave the hour's window.
MAX_WAIT_SECONDS: Final = 5.0


def read_sliced(
    ram: ProcessRam,
    pause: Pause,
    *,
    max_pause: float,
    max_duty: float,
    stop: Callable[[], bool],
    budget: DriftBudget = UNLIMITED,
    overhead: float = 0.0,
) -> NDArray[np.uint64]:
    """Read all pages in slices; return the digest, uint64 of shape (pages,). Each slice suspends the guest for less
    than `max_pause` seconds; all together take at most the ratio `max_duty` of wall time, and at most the `budget`.
    `overhead` is the time for suspending and resuming in seconds. Raises GuestError, and Interrupted.
    """
    digest = np.empty(ram.pages, dtype=np.uint64)
    first = 0
    while True:
        seconds = min(SLICE_RATIO * max_pause, _remaining_budget(budget, overhead, stop) - overhead)
        with pause(overhead + seconds) as held:
            began = time.monotonic()  # inside the pause: the guest runs during the preparation of the suspension
            while first < ram.pages and time.monotonic() - began < seconds:
                last = min(ram.pages, first + STEP_PAGES)
                ram.read(first, last, digest[first:last])
                first = last
        if first >= ram.pages:
            return digest
        _sleep(held.seconds * (1 / max_duty - 1), stop)


def _remaining_budget(budget: DriftBudget, overhead: float, stop: Callable[[], bool]) -> float:
    """Remaining seconds of the budget, after a short wait if that allows another slice."""
    slice_ = (1 + MIN_SLICE_RATIO) * overhead
    if (left := budget.remaining_seconds()) > slice_:
        return left
    wait = budget.seconds_until(slice_)
    if wait > MAX_WAIT_SECONDS:
        raise budget_error(budget, slice_)
    _sleep(wait, stop)
    return max(budget.remaining_seconds(), slice_)


def _sleep(seconds: float, stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if stop():
            raise Interrupted
        time.sleep(min(left, NAP_SECONDS))
