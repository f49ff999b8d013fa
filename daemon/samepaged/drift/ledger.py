"""The ledger of guest pauses: totals since the start, and the last hour, shared between processes through a file."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.atomic_write import whole_file
from samepaged.drift import window
from samepaged.drift.budget import budget_error, hourly_limit
from samepaged.log_line import details
from samepaged.procfs import boot_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["DriftAccount", "PauseLedger", "PausedTime"]

log = logging.getLogger(__name__)

FILE_NAME: Final = "pauses.json"
# The sum of parts of the remaining time may exceed it by a rounding error.
ROUNDING_SECONDS: Final = 1e-9
MAX_FILE_BYTES: Final = 8 << 20
# Another process holds the lock for a read and a write of a small file. If it hangs, the ledger continues without it.
LOCK_TIMEOUT_SECONDS: Final = 0.2
LOCK_POLL_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class PausedTime:
    """Time for which samepaged suspended one guest: `total_seconds` since this process started, and `ratio` of the last
    hour. The ratio includes pauses by other samepaged processes.
    """

    total_seconds: float
    ratio: float


class PauseLedger:
    """The pauses of all guests, by UUID. It is thread-safe. With a `directory`, the last hour is in a file there, so
    that the daemon, its successor and commands share one budget. If the file fails, the ledger only logs a warning.
    """

    def __init__(self, directory: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._writer = secrets.token_hex(8)
        self._totals: dict[str, float] = {}
        self._pauses: window.Pauses = {}
        self._directory = directory
        self._warned = False
        self.refresh()

    def set_directory(self, directory: Path) -> None:
        """Share the file in this directory from now on."""
        with self._lock:
            if directory == self._directory:
                return
            self._directory = directory
        self.refresh()

    def refresh(self) -> None:
        """Merge the pauses that other processes have written."""
        with self._lock:
            self._merge(self._read())

    def add(self, uuid: str, seconds: float) -> None:
        """Record a pause of `seconds` that ends now."""
        if not seconds > 0:
            return
        with self._lock:
            self._totals[uuid] = self._totals.get(uuid, 0.0) + seconds
            key = (uuid, self._writer, window.bucket_number(self._clock()))
            self._pauses[key] = self._pauses.get(key, 0.0) + seconds
            self._share()

    def paused_time(self, uuid: str) -> PausedTime:
        """Time for which this guest was suspended."""
        with self._lock:
            hour = window.spent_seconds(self._pauses, uuid, self._clock())
            return PausedTime(self._totals.get(uuid, 0.0), min(1.0, hour / window.WINDOW_SECONDS))

    def account(self, uuid: str, max_drift: float) -> DriftAccount:
        """The guest's account, with the limit from `scan.max_drift` (a ratio; 1: unlimited)."""
        return DriftAccount(self, uuid, hourly_limit(max_drift))

    def remaining_seconds(self, uuid: str, limit: float) -> float:
        """Seconds of `limit` that remain after the guest's pauses of the last hour."""
        with self._lock:
            return max(0.0, limit - window.spent_seconds(self._pauses, uuid, self._clock()))

    def seconds_until(self, uuid: str, limit: float, seconds: float) -> float:
        """Wait in seconds until `seconds` of `limit` remain; infinite if `limit` is smaller."""
        with self._lock:
            return window.seconds_until(self._pauses, uuid, self._clock(), limit=limit, seconds=seconds)

    def _merge(self, others: window.Pauses) -> None:
        self._pauses = window.unexpired(window.merge(self._pauses, others), self._clock())

    def _share(self) -> None:
        if self._directory is None:
            self._merge({})
            return
        try:
            with _directory_lock(self._directory):
                self._merge(self._read())
                content = window.format_pauses(self._pauses, boot_id())
                with whole_file(self._directory / FILE_NAME, 0o644, lasting=False) as path:
                    path.write_bytes(content)
        except OSError as error:
            self._warn("not written, other processes do not count pauses by this one", error.strerror or error)

    def _read(self) -> window.Pauses:
        if self._directory is None:
            return {}
        try:
            # A FIFO with this name must not block, and a symbolic link must not be followed.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(self._directory / FILE_NAME, "rb", opener=lambda path, _: os.open(path, flags)) as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ValueError("too large")  # noqa: TRY301 - handled like other damage
            return window.parse_pauses(content, boot_id(), self._clock())
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._warn("not read, pauses by other processes do not count", error.strerror or error)
        except ValueError as error:
            self._warn("damaged, ignoring it", error)
        return {}

    def _warn(self, problem: str, error: object) -> None:
        if not self._warned:
            self._warned = True
            log.warning("pause ledger %s%s", problem, details(directory=self._directory, file=FILE_NAME, error=error))


@dataclass(frozen=True, slots=True)
class DriftAccount:
    """The ledger of one guest, and its `limit` in seconds within any hour (a DriftBudget)."""

    ledger: PauseLedger
    uuid: str
    limit: float

    def remaining_seconds(self) -> float:
        """Seconds for which the guest may still be suspended now."""
        return self.ledger.remaining_seconds(self.uuid, self.limit)

    def seconds_until(self, seconds: float) -> float:
        """Wait in seconds until `seconds` remain; infinite if the limit is smaller."""
        return self.ledger.seconds_until(self.uuid, self.limit, seconds)

    def check(self, expected: float) -> float:
        """Return the remaining seconds. Raises GuestError if a pause of `expected` seconds exceeds them."""
        left = self.remaining_seconds()
        if left <= 0 or expected > left + ROUNDING_SECONDS:
            raise budget_error(self, expected)
        return left

    def add(self, seconds: float) -> None:
        """Record a pause of `seconds` that ends now."""
        self.ledger.add(self.uuid, seconds)


@contextlib.contextmanager
def _directory_lock(directory: Path) -> Iterator[None]:
    """Hold the lock of the directory; it ends with the process. Raises OSError if another process keeps the lock."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + LOCK_TIMEOUT_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)
