"""Reading a guest in many short pauses: each slice is exact, and the slices are of different times."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.memory.hashing import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from samepaged.memory.pause import Pause
    from samepaged.memory.process_reader import ProcessReader

__all__ = ["AIM", "read_sliced"]

# The part of the longest pause after which a slice ends. The rest is for resuming, and for a machine that is busy.
AIM: Final = 0.5
# Pages between two looks at the clock: 8 MiB, which take a few milliseconds.
PIECE: Final = 2048
NAP: Final = 0.05


def read_sliced(
    reader: ProcessReader, pause: Pause, *, max_pause: float, max_duty: float, stop: Callable[[], bool]
) -> NDArray[np.uint64]:
    """The digest, uint64 of shape (pages,), of slices that each take less than `max_pause` seconds of the guest, and
    together no more than the part `max_duty` of the wall time. Raises GuestError, and Interrupted.
    """
    digest = np.empty(reader.pages, dtype=np.uint64)
    first = 0
    while True:
        with pause() as held:
            began = time.monotonic()  # not before: what precedes the suspension takes nothing of the guest
            while first < reader.pages and time.monotonic() - began < AIM * max_pause:
                last = min(reader.pages, first + PIECE)
                reader.read(first, last, digest[first:last])
                first = last
        if first >= reader.pages:
            return digest
        _rest(held.seconds * (1 / max_duty - 1), stop)


def _rest(seconds: float, stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if stop():
            raise Interrupted
        time.sleep(min(left, NAP))
