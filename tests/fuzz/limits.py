"""The bounds of one input: processor time, and memory of the process that runs it."""

from __future__ import annotations

import contextlib
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HangError", "bounded_memory", "bounded_time"]

SECONDS: Final = 2.0
MEMORY: Final = 1 << 30


class HangError(BaseException):
    """An input took longer than its bound. Not an Exception, so that no parser catches it."""


@contextlib.contextmanager
def bounded_time() -> Iterator[None]:
    """Raise HangError in the block after SECONDS of processor time. Wall-clock time is unreliable on a busy machine."""

    def hang(*_: object) -> None:
        raise HangError(f"an input took more than {SECONDS} s")

    before = signal.signal(signal.SIGPROF, hang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def bounded_memory() -> None:
    """Limit this process to MEMORY bytes above its current size. A larger allocation raises MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
