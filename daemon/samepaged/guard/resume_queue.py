"""Working on all open journal entries at once: what guard, daemon and `samepaged recover` have in common."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged.guard.journal import JournalError, OpenEntry, of_dead_processes, open_entries
from samepaged.guard.resume import EntrySettlement, ResumeOutcome
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.journald import about

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from samepaged.guard.journal import FileName
    from samepaged.hypervisor.protocol import Hypervisor

__all__ = ["OpenEntries", "PendingEntry", "SettledEntry"]

log = logging.getLogger(__name__)

# Between two looks for new entries.
SEARCH_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """An open entry, and the progress of its settlement in words."""

    found: OpenEntry
    progress: str


@dataclass(frozen=True, slots=True)
class SettledEntry:
    """A settled entry, its outcome, and the seconds for which the guest was seen paused until then."""

    found: OpenEntry
    outcome: ResumeOutcome
    paused_seconds: float


class OpenEntries:
    """The open entries below `directories` whose files are `mine`, and the work on them. libvirt is asked at `uri`, or
    at the URI of the entry. `stop` is asked while libvirt is waited for.

    `step` is for one thread; `pending` and `holds` for any.
    """

    def __init__(
        self,
        directories: Callable[[], Iterable[Path]],
        mine: Callable[[FileName], bool] = of_dead_processes,
        *,
        uri: str | None = None,
        stop: Callable[[], bool] = lambda: False,
        connect: Callable[[str], Hypervisor] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directories, self._mine = directories, mine
        self._uri, self._stop, self._clock = uri, stop, clock
        self._connect = connect or self._hypervisor
        self._hypervisors: dict[str, Hypervisor] = {}
        self._work: dict[Path, EntrySettlement] = {}
        self._troubles: dict[str, None] = {}
        self._unremovable: set[Path] = set()  # settled, though their files stay
        self._search_due = 0.0
        self._lock = threading.Lock()

    def _hypervisor(self, uri: str) -> Hypervisor:
        return LibvirtHypervisor(uri, stop=self._stop)

    @property
    def troubles(self) -> list[str]:
        """Files that could not be read, understood or removed: a line each."""
        return list(self._troubles)

    @property
    def pending(self) -> tuple[PendingEntry, ...]:
        """The entries that are being worked on, the oldest first."""
        with self._lock:
            work = list(self._work.values())
        found = [PendingEntry(one.found, one.progress) for one in work]
        return tuple(sorted(found, key=lambda one: one.found.since))

    def holds(self, uuid: str) -> bool:
        """Whether an open entry names the guest, as the files are now, or as they were if they cannot be read."""
        with self._lock:
            known = any(work.found.entry.uuid == uuid for work in self._work.values())
        return known or any(found.entry.uuid == uuid for found in self._read())

    def add(self, found: OpenEntry, *, in_flight: bool = True) -> None:
        """Work on an entry: one of a file, or one that is known otherwise. Does nothing if that is begun."""
        uri = self._uri or found.entry.uri
        with self._lock:
            if found.path in self._work:
                return
            hypervisor = self._hypervisors.get(uri)
            if hypervisor is None:
                hypervisor = self._hypervisors[uri] = self._connect(uri)
            other_uri = self._uri not in {None, found.entry.uri}
            self._work[found.path] = EntrySettlement(found, hypervisor, in_flight, self._clock, other_uri)

    def _read(self) -> Iterator[OpenEntry]:
        for directory in self._directories():
            for found in open_entries(directory, self._mine, tidy=True):
                if isinstance(found, JournalError):
                    self._trouble(str(found))
                elif found.path not in self._unremovable:
                    yield found

    def _trouble(self, line: str) -> None:
        if line not in self._troubles:
            self._troubles[line] = None
            log.error(line)

    def step(self, *, search: bool = False) -> list[SettledEntry]:
        """Look at each entry that is due, once; gives those that were settled. New entries are looked for every
        SEARCH_SECONDS, or now with `search`.
        """
        now = self._clock()
        if search or now >= self._search_due:
            self._search_due = now + SEARCH_SECONDS
            for found in self._read():
                self.add(found)
        settled = []
        for number, (path, work) in enumerate(list(self._work.items())):
            if number and self._stop():  # the first is looked at in any case
                break
            if work.due <= self._clock():
                outcome = work.look()
                if outcome is not None:
                    settled.append(SettledEntry(work.found, outcome, work.paused_seconds))
                    self._end(path, work, outcome)
        return settled

    def _end(self, path: Path, work: EntrySettlement, outcome: ResumeOutcome) -> None:
        name, extra = work.found.entry.name, about(work.found.entry.name, work.found.entry.uuid)
        if outcome is ResumeOutcome.NOT_OURS and work.paused_seconds:
            text = (
                "domain %r was migrated, saved or ended while samepaged held it suspended; if it is paused where it is "
                "now, resume it there (virsh resume)"
            )
            log.critical(text, name, extra=extra)
        elif outcome is ResumeOutcome.RESUMED:
            text = "domain %r: an open journal entry named it: it was suspended, and has been resumed"
            log.error(text, name, extra=extra)
        elif outcome is not ResumeOutcome.ELSEWHERE:
            log.info("domain %r: its open journal entry is settled: %s", name, outcome.name.lower(), extra=extra)
        try:
            work.found.clear()
        except OSError as error:
            self._unremovable.add(path)
            self._trouble(f"{path} cannot be removed ({error.strerror}); remove it")
        with self._lock:
            del self._work[path]

    @property
    def due(self) -> float:
        """When `step` is to be called next, of the clock."""
        return min([self._search_due, *(work.due for work in self._work.values())])

    def close(self) -> None:
        """Close the connections. The entries stay."""
        for hypervisor in self._hypervisors.values():
            hypervisor.close()
        self._hypervisors.clear()
