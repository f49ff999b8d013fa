"""Signals as flags: a handler records its signal, and the loop acts on it at its next check."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Signals"]

# Signals that end the process by default; they need a handler, because a guest may be suspended.
STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
# Signals that stop (pause) the process by default.
STAND: Final = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
RELOAD: Final = signal.SIGHUP


class Signals:
    """Catches signals that end or stop a process, and SIGHUP, while its context is active; for the main thread only."""

    def __init__(self) -> None:
        self.stopping = False
        self._reload = False
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        # Python writes the number of each signal into this pipe, so that `wait` ends at once when one comes; no lock
        # is taken in a handler.
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*STOP, RELOAD):
            self._before[number] = signal.signal(number, self._note)
        for number in STAND:
            self._before[number] = signal.signal(number, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() returned
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == RELOAD:
            self._reload = True
        else:
            self.stopping = True

    def wake(self) -> None:
        """End a `wait` from another thread."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so the loop wakes anyway
            os.write(self._write, b"\0")

    def take_reload(self) -> bool:
        """Whether a reload was requested since the previous call."""
        asked, self._reload = self._reload, False
        return asked

    def wait(self, seconds: float) -> None:
        """Wait for a signal or `wake`, at most `seconds`."""
        if self.stopping or self._reload:
            return
        deadline = time.monotonic() + max(seconds, 0)
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._read], [], [], left)[0]:
                os.read(self._read, 4096)
                return
