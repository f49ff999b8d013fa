"""Dumps that nobody reads from any more: libvirt waits for a reader, and holds the domain meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING, Final

from samepaged.procfs import has_ended

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["release"]

# Seconds for which a pipe has a reader again: for a writer that had found it, and was yet to open it.
HELD: Final = 0.1


def release(directory: Path, ended: int | None = None) -> None:
    """Remove what dumps of samepaged's processes that are no more, or of pid `ended`, have left in `directory`. Whoever
    waits to write into one (fifo(7)) gets a reader for a moment, and fails then; who comes later finds none.
    """
    readers = list(_taken(directory, ended))
    if readers:
        time.sleep(HELD)
    for reader in readers:
        os.close(reader)


def _taken(directory: Path, ended: int | None) -> Iterator[int]:
    for left in directory.glob("dump-*-*"):
        pid = left.name.split("-")[1]
        if pid.isdecimal() and (pid == str(ended) or has_ended(int(pid))):
            with contextlib.suppress(OSError):
                yield os.open(left / "memory", os.O_RDONLY | os.O_NONBLOCK)
            shutil.rmtree(left, ignore_errors=True)
