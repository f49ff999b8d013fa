"""Abandoned dumps: libvirt waits for a reader of the pipe, and keeps the domain paused until then."""

from __future__ import annotations

import logging
import os
import shutil
import time
from typing import TYPE_CHECKING, Final

from samepaged.log_line import details
from samepaged.os_errors import exhausted
from samepaged.procfs import has_ended

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["release"]

log = logging.getLogger(__name__)

# Seconds for which a pipe gets a reader, so that a pending writer can open it.
READER_SECONDS: Final = 0.1
# Seconds for which opening is retried while descriptors are exhausted, and between two attempts.
PATIENCE_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 0.05


def release(directory: Path, ended: int | None = None) -> None:
    """Remove the pipes that dumps of ended samepaged processes, or of pid `ended`, left in `directory`. A writer that
    waits for a reader (fifo(7)) gets one for a moment, and then fails; a later writer fails because the pipe is gone.
    """
    readers: list[int] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            _take(directory, ended, readers)
        except OSError as error:
            if exhausted(error) and time.monotonic() < deadline:
                time.sleep(RETRY_SECONDS)
                continue
            log.warning(
                "abandoned dumps not removed%s",
                details(directory=directory, error=error, remedy="run `samepaged recover`"),
            )
        break
    if readers:
        time.sleep(READER_SECONDS)
    for reader in readers:
        os.close(reader)


def _take(directory: Path, ended: int | None, readers: list[int]) -> None:
    """Open the pipe in each directory, and remove both. Raises OSError if a pipe must be tried again: without a reader,
    libvirt would wait for ever on an unlinked pipe.
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
