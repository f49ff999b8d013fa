"""The pauses of all guests: counted since the start, and for the last hour shared between processes by a file."""

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
# A part of what is left, computed from it, may exceed it by a rounding error.
ROUNDING_SECONDS: Final = 1e-9
MAX_FILE_BYTES: Final = 8 << 20
# Another process holds the lock for a read and a write of a small file. It may hang: the ledger then goes on without.
LOCK_TIMEOUT_SECONDS: Final = 0.2
LOCK_POLL_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class PausedTime:
    """How long samepaged kept one guest suspended: `total_seconds` since this process started, and the part of the last
    hour (`ratio`), in which the pauses by other processes of samepaged are included.
    """

    total_seconds: float
    ratio: float


class PauseLedger:
    """The pauses of all guests, by UUID. Threads may share it. With a `directory`, the last hour is in a file there,
    so that the daemon, its successor and commands have one budget; a file that fails costs a warning and no more.
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
        """Take over the pauses that other processes have written."""
        with self._lock:
            self._merge(self._read())

    def add(self, uuid: str, seconds: float) -> None:
        """A pause of so many seconds has ended now."""
        if not seconds > 0:
            return
        with self._lock:
            self._totals[uuid] = self._totals.get(uuid, 0.0) + seconds
            key = (uuid, self._writer, window.bucket_number(self._clock()))
            self._pauses[key] = self._pauses.get(key, 0.0) + seconds
            self._share()

    def paused_time(self, uuid: str) -> PausedTime:
        """How long this guest was suspended."""
        with self._lock:
            hour = window.spent_seconds(self._pauses, uuid, self._clock())
            return PausedTime(self._totals.get(uuid, 0.0), min(1.0, hour / window.WINDOW_SECONDS))

    def account(self, uuid: str, max_drift: float) -> DriftAccount:
        """The guest's account, bounded by `scan.max_drift` (a ratio; 1: not bounded)."""
        return DriftAccount(self, uuid, hourly_limit(max_drift))

    def remaining_seconds(self, uuid: str, limit: float) -> float:
        """Seconds of `limit` that the guest's pauses of the last hour leave."""
        with self._lock:
            return max(0.0, limit - window.spent_seconds(self._pauses, uuid, self._clock()))

    def seconds_until(self, uuid: str, limit: float, seconds: float) -> float:
        """Seconds until so many of `limit` are left; infinite if `limit` is smaller."""
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
            # A FIFO in its place must not block, nor a link lead elsewhere.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(self._directory / FILE_NAME, "rb", opener=lambda path, _: os.open(path, flags)) as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ValueError("too large")  # noqa: TRY301 - as for all other damage
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
    """One guest's part of the ledger, and its `limit` in seconds within any hour (a DriftBudget)."""

    ledger: PauseLedger
    uuid: str
    limit: float

    def remaining_seconds(self) -> float:
        """Seconds for which the guest may still be suspended now."""
        return self.ledger.remaining_seconds(self.uuid, self.limit)

    def seconds_until(self, seconds: float) -> float:
        """Seconds until so many are left; infinite if the hour's limit is smaller."""
        return self.ledger.seconds_until(self.uuid, self.limit, seconds)

    def check(self, expected: float) -> float:
        """The seconds that are left. Raises GuestError if a pause of so many expected seconds does not fit."""
        left = self.remaining_seconds()
        if left <= 0 or expected > left + ROUNDING_SECONDS:
            raise budget_error(self, expected)
        return left

    def add(self, seconds: float) -> None:
        """A pause of so many seconds has ended now."""
        self.ledger.add(self.uuid, seconds)


@contextlib.contextmanager
def _directory_lock(directory: Path) -> Iterator[None]:
    """Hold the directory's lock, which a process that ends releases. Raises OSError where another one keeps it."""
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
