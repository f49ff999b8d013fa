"""What this package asks of whoever can suspend a guest."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

__all__ = ["Pause", "PauseMeter", "SuspendedGuest"]


class SuspendedGuest(Protocol):
    """One pause. `seconds`, for which the guest stood still, are known once the pause is over: without what was done to
    prepare it and to clear up after it, while the guest ran.
    """

    seconds: float


class Pause(Protocol):
    """Holds the guest suspended while its context is entered."""

    def __call__(self, expected: float = 0.0, *, dumping: bool = False) -> AbstractContextManager[SuspendedGuest]:
        """Suspend on entering, resume on leaving; raises GuestError where what was read meanwhile is void. `expected`
        is how many seconds the pause will take, more than scan.max_pause only if the operator asked for that; `dumping`
        says that the guest is dumped.
        """


class PauseMeter:
    """A `Pause` that adds up its pauses, in `seconds`."""

    def __init__(self, pause: Pause) -> None:
        self._pause = pause
        self.seconds = 0.0

    @contextmanager
    def __call__(self, expected: float = 0.0, *, dumping: bool = False) -> Iterator[SuspendedGuest]:
        """One more pause."""
        held: SuspendedGuest | None = None
        try:
            with self._pause(expected, dumping=dumping) as held:
                yield held
        finally:
            if held is not None:
                self.seconds += held.seconds
