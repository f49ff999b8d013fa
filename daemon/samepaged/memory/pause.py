"""What this package asks of whoever can suspend a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["Held", "Pause"]


class Held(Protocol):
    """One pause. `seconds`, for which the guest stood still, are known once the pause is over: without what was done to
    prepare it and to clear up after it, while the guest ran.
    """

    seconds: float


class Pause(Protocol):
    """Holds the guest suspended while its context is entered."""

    def __call__(self, expected: float = 0.0, *, dumping: bool = False) -> AbstractContextManager[Held]:
        """Suspend on entering, resume on leaving; raises GuestError where what was read meanwhile is void. `expected`
        is how many seconds it is to take, where the operator asked for that; `dumping` says that the guest is dumped.
        """
