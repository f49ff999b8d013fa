"""Dumps that nobody reads from any more: libvirt waits for a reader, and holds the domain meanwhile."""

from __future__ import annotations

import logging
import os
import shutil
import time
from typing import TYPE_CHECKING, Final

from samepaged.os_errors import exhausted
from samepaged.procfs import has_ended

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["release"]

log = logging.getLogger(__name__)

# Seconds for which a pipe has a reader again: for a writer that had found it, and was yet to open it.
HELD: Final = 0.1
# Seconds for which opening is retried while the host has no descriptor left, and between two attempts.
PATIENCE: Final = 5.0
RETRY_SECONDS: Final = 0.05


def release(directory: Path, ended: int | None = None) -> None:
    """Remove what dumps of samepaged's processes that are no more, or of pid `ended`, have left in `directory`. Whoever
    waits to write into one (fifo(7)) gets a reader for a moment, and fails then; who comes later finds none.
    """
    readers: list[int] = []
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            _take(directory, ended, readers)
        except OSError as error:
            if exhausted(error) and time.monotonic() < deadline:
                time.sleep(RETRY_SECONDS)
                continue
            log.warning("dumps left in %s cannot be removed (%s); run `samepaged recover`", directory, error)
        break
    if readers:
        time.sleep(HELD)
    for reader in readers:
        os.close(reader)


def _take(directory: Path, ended: int | None, readers: list[int]) -> None:
    """Open the pipe in each directory, and remove both. Raises OSError where one has to be tried again: without a
    reader, libvirt would wait for ever on a pipe that has no name any more.
    """
    for left in [path for path in directory.iterdir() if path.match("dump-*-*")]:
        pid = left.name.split("-")[1]
        if pid.isdecimal() and (pid == str(ended) or has_ended(int(pid))):
            try:
                readers.append(os.open(left / "memory", os.O_RDONLY | os.O_NONBLOCK))
            except OSError as error:
                if exhausted(error):
                    raise
            shutil.rmtree(left, ignore_errors=True)
