"""Reading a guest in many short pauses: each slice is exact, and the slices are of different times."""

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

# Pages between two looks at the clock: 8 MiB, which take a few milliseconds.
STEP_PAGES: Final = 2048
NAP_SECONDS: Final = 0.05
# The shortest slice that is worth a suspension, as a part of what suspending and resuming take.
MIN_SLICE_RATIO: Final = 0.5
# Seconds that a scan which has used up its drift budget waits for pauses to leave the hour.
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
    """The digest, uint64 of shape (pages,), of slices that each take less than `max_pause` seconds of the guest, and
    together no more than the part `max_duty` of the wall time, nor more than the `budget`. `overhead` is what
    suspending and resuming take, in seconds. Raises GuestError, and Interrupted.
    """
    digest = np.empty(ram.pages, dtype=np.uint64)
    first = 0
    while True:
        seconds = min(SLICE_RATIO * max_pause, _remaining_budget(budget, overhead, stop) - overhead)
        with pause(overhead + seconds) as held:
            began = time.monotonic()  # not before: what precedes the suspension takes nothing of the guest
            while first < ram.pages and time.monotonic() - began < seconds:
                last = min(ram.pages, first + STEP_PAGES)
                ram.read(first, last, digest[first:last])
                first = last
        if first >= ram.pages:
            return digest
        _sleep(held.seconds * (1 / max_duty - 1), stop)


def _remaining_budget(budget: DriftBudget, overhead: float, stop: Callable[[], bool]) -> float:
    """The seconds that the budget has left, after a short wait if that gains a slice."""
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
