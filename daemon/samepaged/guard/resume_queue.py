"""Queue of open journal entries with guests to resume: for guard, daemon and `samepaged recover`."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.guard.journal import JournalError, OpenEntry, is_orphaned, open_entries
from samepaged.guard.resume import ResumeOutcome, ResumeTask
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.journald import about
from samepaged.log_line import details

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from samepaged.guard.journal import FileName
    from samepaged.hypervisor.protocol import Hypervisor

__all__ = ["PendingEntry", "ResolvedEntry", "ResumeQueue"]

log = logging.getLogger(__name__)

# Interval of the search for new entries.
SEARCH_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """An unresolved entry, and the progress as a phrase."""

    open_entry: OpenEntry
    progress: str


@dataclass(frozen=True, slots=True)
class ResolvedEntry:
    """A resolved entry, its outcome, and the seconds for which the guest was observed paused."""

    open_entry: OpenEntry
    outcome: ResumeOutcome
    paused_seconds: float


class ResumeQueue:
    """Resumes the guests of the open entries below `directories` with a file name that `selects` accepts. It connects
    to `uri`, or to the URI of the entry. `stop` is polled while it waits for libvirt.

    `step` is for one thread; `pending` and `has_guest` for any.
    """

    def __init__(
        self,
        directories: Callable[[], Iterable[Path]],
        selects: Callable[[FileName], bool] = is_orphaned,
        *,
        uri: str | None = None,
        stop: Callable[[], bool] = lambda: False,
        connect: Callable[[str], Hypervisor] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directories, self._selects = directories, selects
        self._uri, self._stop, self._clock = uri, stop, clock
        self._connect = connect or self._hypervisor
        self._hypervisors: dict[str, Hypervisor] = {}
        self._tasks: dict[Path, ResumeTask] = {}
        self._problems: dict[str, None] = {}
        self._unremovable: set[Path] = set()  # settled, though their files stay
        self._search_due = 0.0
        self._lock = threading.Lock()

    def _hypervisor(self, uri: str) -> Hypervisor:
        return LibvirtHypervisor(uri, stop=self._stop)

    @property
    def problems(self) -> list[str]:
        """A line for each file that could not be read, parsed or removed."""
        return list(self._problems)

    @property
    def pending(self) -> tuple[PendingEntry, ...]:
        """The unresolved entries, the oldest first."""
        with self._lock:
            tasks = list(self._tasks.values())
        pending = [PendingEntry(one.open_entry, one.progress) for one in tasks]
        return tuple(sorted(pending, key=lambda one: one.open_entry.since))

    def has_guest(self, uuid: str) -> bool:
        """Whether an open entry names the guest, as the files are now, or as they were if they cannot be read."""
        with self._lock:
            known = any(work.open_entry.entry.uuid == uuid for work in self._tasks.values())
        return known or any(found.entry.uuid == uuid for found in self._read())

    def add(self, open_entry: OpenEntry, *, in_flight: bool = True) -> None:
        """Add an entry, of a file or of memory, unless it is in the queue."""
        uri = self._uri or open_entry.entry.uri
        with self._lock:
            if open_entry.path in self._tasks:
                return
            hypervisor = self._hypervisors.get(uri)
            if hypervisor is None:
                hypervisor = self._hypervisors[uri] = self._connect(uri)
            other_uri = self._uri not in {None, open_entry.entry.uri}
            self._tasks[open_entry.path] = ResumeTask(open_entry, hypervisor, in_flight, self._clock, other_uri)

    def _read(self) -> Iterator[OpenEntry]:
        for directory in self._directories():
            for found in open_entries(directory, self._selects, remove_closed=True):
                if isinstance(found, JournalError):
                    self._report_problem(str(found))
                elif found.path not in self._unremovable:
                    yield found

    def _report_problem(self, line: str) -> None:
        if line not in self._problems:
            self._problems[line] = None
            log.error("journal file unusable%s", details(error=line))

    def step(self, *, search: bool = False) -> list[ResolvedEntry]:
        """Poll each due entry once, and return the resolved ones. New entries are searched for every SEARCH_SECONDS, or
        now with `search`.
        """
        now = self._clock()
        if search or now >= self._search_due:
            self._search_due = now + SEARCH_SECONDS
            for found in self._read():
                self.add(found)
        settled = []
        for number, (path, work) in enumerate(list(self._tasks.items())):
            if number and self._stop():  # the first is polled in any case
                break
            if work.due_time <= self._clock():
                outcome = work.poll()
                if outcome is not None:
                    settled.append(ResolvedEntry(work.open_entry, outcome, work.paused_seconds))
                    self._remove(path, work, outcome)
        return settled

    def _remove(self, path: Path, work: ResumeTask, outcome: ResumeOutcome) -> None:
        name, extra = work.open_entry.entry.name, about(work.open_entry.entry.name, work.open_entry.entry.uuid)
        if outcome is ResumeOutcome.NOT_OURS and work.paused_seconds:
            remedy = "if the guest is paused on its present host, resume it there (virsh resume)"
            text = "guest migrated, saved or ended while suspended by samepaged%s"
            log.critical(text, details(domain=name, remedy=remedy), extra=extra)
        elif outcome is ResumeOutcome.RESUMED:
            log.error("resumed the suspended guest of an open journal entry%s", details(domain=name), extra=extra)
        elif outcome is not ResumeOutcome.RESOLVED_ELSEWHERE:
            text = "journal entry settled%s"
            log.info(text, details(domain=name, outcome=outcome.name.lower()), extra=extra)
        try:
            work.open_entry.clear()
        except OSError as error:
            self._unremovable.add(path)
            self._report_problem(f"{path} cannot be removed ({error.strerror}); remove it")
        with self._lock:
            del self._tasks[path]

    @property
    def due_time(self) -> float:
        """Time of the next call of `step`, on the clock."""
        return min([self._search_due, *(work.due_time for work in self._tasks.values())])

    def close(self) -> None:
        """Close the connections. The entries stay."""
        for hypervisor in self._hypervisors.values():
            hypervisor.close()
        self._hypervisors.clear()
