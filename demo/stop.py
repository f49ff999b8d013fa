"""Ctrl-C, SIGTERM and a closed terminal: handled only between starts, so that none is interrupted."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Stop", "Stopped"]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):  # noqa: N818  # not an error: the user ends the demo
    """The demo was asked to leave."""


class Stop:
    """Whether the demo was asked to leave."""

    def __init__(self) -> None:
        self._asked = False
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def check(self) -> None:
        """Raise `Stopped` if so."""
        if self._asked:
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`; raise `Stopped` as soon as so."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.1))
        self.check()
