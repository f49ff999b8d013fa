"""Recovery: resumes the guests of open journal entries, of ended processes and of this one."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from samepaged import ksm, threads
from samepaged.drift.ledger import PauseLedger
from samepaged.errors import HypervisorError, OpenEntriesError
from samepaged.guard.abandoned_dumps import release
from samepaged.guard.journal import FileName, OpenEntry, candidate_directories, is_orphaned, open_entries
from samepaged.guard.resume_queue import ResumeQueue
from samepaged.log_line import details
from samepaged.procfs import start_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from samepaged.guard.resume_queue import PendingEntry, ResolvedEntry

__all__ = ["Recovery", "recover"]

log = logging.getLogger(__name__)

# Between two steps: the least wait, and the most while there is an entry, and while there is none.
MIN_STEP_SECONDS: Final = 0.01
MAX_BUSY_STEP_SECONDS: Final = 0.3
# After this time, the remaining entries are left to the thread.
MAX_FIRST_STEP_SECONDS: Final = 5.0
MAX_IDLE_STEP_SECONDS: Final = 1.0


def journal_directories(configured: Path) -> Iterator[Path]:
    """The directories of journals. A directory of another user below one that all users may write to is
    not trusted.
    """
    for directory in candidate_directories(configured):
        if directory.is_dir() and (directory == configured or directory.stat().st_uid == os.geteuid()):
            yield directory


def restore_ksm_and_dumps(configured: Path) -> None:
    """Clean up after ended processes: restart KSM, and end their dumps, which keep guests paused."""
    for directory in journal_directories(configured):
        ksm.restore(directory)
        release(directory)


def _pending_line(pending: PendingEntry) -> str:
    return (
        f"domain {pending.open_entry.entry.name!r}: its journal entry stays open: {pending.progress}; run "
        "`samepaged recover` when QEMU and libvirt respond"
    )


def _charge(settled: Iterable[ResolvedEntry]) -> None:
    """Charge the observed paused time of guests to their drift budgets."""
    for one in settled:
        if one.paused_seconds:
            PauseLedger(one.open_entry.path.parent).add(one.open_entry.entry.uuid, one.paused_seconds)


def _living_process_lines(configured: Path) -> Iterator[str]:
    """Yield a line for each open entry that a running process is settling."""
    for directory in journal_directories(configured):
        for found in open_entries(directory, lambda name: name.number is not None and not is_orphaned(name)):
            if isinstance(found, OpenEntry):
                pid = FileName.parse(found.path.name).pid
                yield f"domain {found.entry.name!r}: its journal entry is open; process {pid} is settling it"


def recover(configured: Path, give_up: Callable[[], bool], uri: str | None = None) -> list[str]:
    """Settle each entry of ended processes, until `give_up` returns True. Connects to `uri`, or to the URI of the
    entry; without an entry it does not connect. Returns a line for each entry that is still open, and for each file
    that could not be processed.
    """
    restore_ksm_and_dumps(configured)
    entries = ResumeQueue(lambda: journal_directories(configured), uri=uri, stop=give_up)
    try:
        _charge(entries.step())
        while entries.pending and not give_up():
            time.sleep(min(max(entries.due_time - time.monotonic(), MIN_STEP_SECONDS), MAX_BUSY_STEP_SECONDS))
            _charge(entries.step())
        lines = [_pending_line(one) for one in entries.pending] + list(_living_process_lines(configured))
        for line in lines:
            log.error("journal entry still open%s", details(error=line))
        return [*entries.problems, *lines]
    finally:
        entries.close()


class Recovery:
    """Settles open entries in the background while samepaged runs: entries of ended processes in `configured` and its
    substitutes, and entries that this process leaves open.

    `on_change` is called in the recovery's thread with the pending entries when they change, and `on_settled` with each
    settled entry.
    """

    def __init__(
        self,
        configured: Path,
        on_change: Callable[[tuple[PendingEntry, ...]], None] = lambda _: None,
        on_settled: Callable[[ResolvedEntry], None] = lambda _: None,
    ) -> None:
        self._configured = [configured]
        self._changed, self._settled = on_change, on_settled
        self._stopping = threading.Event()
        self._pid, self._start_time = str(os.getpid()), str(start_time(os.getpid()))
        self._step_deadline: float | None = None  # the first step, in the caller's thread, has a bound
        self._queue = ResumeQueue(self._directories, self._selects, stop=self._step_expired)
        self._thread: threads.Worker | None = None
        self._reported: tuple[PendingEntry, ...] = ()

    def _step_expired(self) -> bool:
        return self._step_deadline is not None and time.monotonic() > self._step_deadline

    def _directories(self) -> Iterator[Path]:
        found = dict.fromkeys(path for configured in self._configured for path in journal_directories(configured))
        yield from found

    def _selects(self, name: FileName) -> bool:
        own = (name.pid, name.start_time) == (self._pid, self._start_time)
        return name.number is not None if own else is_orphaned(name)

    def add_directory(self, configured: Path) -> None:
        """Add a directory after a reload. Open entries in the earlier ones are still settled."""
        if configured not in self._configured:
            self._configured.append(configured)

    @property
    def pending(self) -> tuple[PendingEntry, ...]:
        """The open entries that are not settled, the oldest first."""
        return self._queue.pending

    def has_guest(self, uuid: str) -> bool:
        """Whether an open entry names the guest."""
        return self._queue.has_guest(uuid)

    def start(self) -> None:
        """Check each entry once, and continue in a thread. If the thread cannot be started, the caller must call
        `step`.
        """
        restore_ksm_and_dumps(self._configured[-1])
        self._step_deadline = time.monotonic() + MAX_FIRST_STEP_SECONDS
        self.step()
        self._step_deadline = None
        thread = threads.Worker(self._run)
        try:
            thread.start(HypervisorError)
        except HypervisorError as error:
            log.warning("recovery thread not started, recovering between scans only%s", details(error=error))
        else:
            self._thread = thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.step()
            least = MAX_BUSY_STEP_SECONDS if self.pending else MAX_IDLE_STEP_SECONDS
            self._stopping.wait(min(max(self._queue.due_time - time.monotonic(), MIN_STEP_SECONDS), least))

    def step_without_thread(self) -> None:
        """Do one step, unless the recovery has its own thread."""
        if self._thread is None:
            self.step()

    def step(self, *, search: bool = False) -> None:
        """Check each entry that is due, as ResumeQueue.step does."""
        try:
            for one in self._queue.step(search=search):
                self._settled(one)
            pending = self.pending
            if pending != self._reported:
                self._reported = pending
                self._changed(pending)
        except Exception:  # an error of one step must not end the thread
            log.exception("recovery step failed, retrying")

    def close(self, seconds: float) -> None:
        """Settle open entries for at most `seconds`, then leave them to the guard and to `samepaged recover`. Raises
        OpenEntriesError if entries are still open.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(seconds)
        if self._thread is None or not self._thread.is_alive():
            deadline = time.monotonic() + seconds
            self.step(search=True)
            while self.pending and time.monotonic() < deadline:
                time.sleep(MAX_BUSY_STEP_SECONDS)
                self.step()
            self._queue.close()
        lines = [_pending_line(one) for one in self.pending]
        if lines:
            raise OpenEntriesError("\n".join(lines))
