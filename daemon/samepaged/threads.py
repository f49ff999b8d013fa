"""Thread start that reports an exhausted limit (pids.max of a control group, `ulimit -u`) as an error."""

from __future__ import annotations

import _thread
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from samepaged.errors import SamepagedError

__all__ = ["Worker", "start"]

# Seconds in which a thread must begin.
START_SECONDS: Final = 0.5
NO_THREAD_REMEDY: Final = "raise TasksMax= or `ulimit -u`"


def start(thread: threading.Thread, error_type: Callable[[str, str], SamepagedError]) -> None:
    """Start a thread. On failure, raises `error_type(problem, remedy)`."""
    try:
        thread.start()
    except RuntimeError as error:
        raise error_type(f"no thread can be started ({error})", NO_THREAD_REMEDY) from error


class Worker:
    """A thread that calls `target` once, and does not keep the process alive. `target` must not raise.

    threading.Thread.start() waits for ever for a thread that runs out of memory before it begins. This start has a
    timeout, so it is safe while a guest is suspended.
    """

    def __init__(self, target: Callable[[], None]) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._abandoned = False
        self._ended = threading.Event()
        self._ended.set()

    def start(self, error_type: Callable[[str, str], SamepagedError]) -> None:
        """Start it. On failure, raises `error_type(problem, remedy)`, and `target` is never called."""
        self._ended.clear()
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:
            self._ended.set()
            raise error_type(f"no thread can be started ({error})", NO_THREAD_REMEDY) from error
        if not self._begun.wait(START_SECONDS):
            with self._lock:
                self._abandoned = not self._begun.is_set()
            if self._abandoned:
                self._ended.set()
                raise error_type("a thread was started but did not run", "free memory on the host, or raise MemoryMax=")

    def is_alive(self) -> bool:
        """Whether it was started and has not ended."""
        return not self._ended.is_set()

    def join(self, seconds: float) -> None:
        """Wait for its end, at most so many seconds."""
        self._ended.wait(seconds)

    def _run(self) -> None:
        with self._lock:
            if self._abandoned:
                return
            self._begun.set()
        try:
            self._target()
        finally:
            self._ended.set()
