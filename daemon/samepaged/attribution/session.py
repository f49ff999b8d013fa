"""One attributed scan of a guest, from the daemon's side: what to copy and when, and whom to have it read by.

The guest's kernel is looked at while it runs; then what is needed of it is copied at the instant of the digest, and is
thought over when the guest runs on. The daemon itself makes nothing of what is in those pages: a process does that can
do nothing else (sandbox.py).
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.client import WorkerClient, WorkerLimits, WorkerRefused
from samepaged.attribution.messages import BLOCK, MOST_NOTES
from samepaged.attribution.page_owners import KIND, PageOwners
from samepaged.attribution.sandbox import PROGRAM
from samepaged.formatting import size
from samepaged.ipc import GoneError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from samepaged.attribution.page_buffer import PageSource
    from samepaged.attribution.ram_map import RamMap

__all__ = ["AttributionSession", "GuestKernelCache", "WorkerLimits"]

# The first line of VMCOREINFO, which is at the start of a page (kernel/vmcore_info.c).
MARK: Final = b"OSRELEASE="
NO_LINUX: Final = "no Linux was found in its memory"
# Seconds for which the guest may wait until the process has been told what to choose by, and again for its choice, when
# the guest's memory has been read.
CHOOSING: Final = 0.1
# More may be chosen while the guest is held than was before: a part, and so many pages.
MORE: Final = 8
MARGIN: Final = 1024
# A guest that was looked through in vain is looked through again at the next attributed scan (it may have been
# starting), then twice as late each time, and at last at every so many of them.
LOOK_AGAIN: Final = 10
EMPTY: Final = np.empty(0, dtype=np.int64)
NO_BYTES: Final = np.empty(0, dtype=np.uint8)


@dataclass(slots=True)
class GuestKernelCache:
    """What is kept of one guest (one process of it) for its next attributed scan; nothing of it is used for another.

    `notes` (int64) are the pages that may tell the kernel, None where nobody has looked; `profile` (uint8) is what was
    told of that; `others` (int64) the pages that were needed besides struct pages and what these chose. `vain` counts
    how often in a row it was looked through in vain, `why` says why, and `passed` counts the scans since.
    """

    start_time: int
    notes: NDArray[np.int64] | None = None
    profile: NDArray[np.uint8] = field(default_factory=NO_BYTES.copy)
    others: NDArray[np.int64] = field(default_factory=EMPTY.copy)
    passed: int = 0
    vain: int = 0
    why: str = NO_LINUX

    def forget(self) -> None:
        """What was found: the next look is through all of the guest."""
        self.notes, self.profile, self.others, self.passed = None, NO_BYTES, EMPTY, 0

    def looked_in_vain(self, why: str) -> None:
        """Nothing was found, or nothing that is to be used again."""
        self.forget()
        self.vain, self.why = self.vain + 1, why

    def worth_a_look(self) -> bool:
        """Whether to look at it in this scan; to be asked once in each."""
        self.passed += 1
        return not self.vain or self.passed >= min(1 << (self.vain - 1), LOOK_AGAIN)


class AttributionSession:
    """A Witness (memory/observer.py) of one scan, which brings what is `known` up to date. `layouts`: where the guest's
    RAM may lie, the likeliest first. `stop` is asked while it waits. A context manager; `think` and `conclude` when the
    guest runs on.
    """

    def __init__(
        self,
        known: GuestKernelCache,
        layouts: Sequence[RamMap],
        terms: WorkerLimits,
        stop: Callable[[], bool],
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.known = known
        self._layouts = layouts
        self._terms = terms
        self._stop = stop
        self._program = program
        self._talk: WorkerClient | None = None
        self._over: WorkerClient | None = None
        self._note: str | None = None
        # To be copied: what is needed by itself, and what was chosen by the struct pages.
        self._needed = self._chosen = EMPTY
        self._stale = np.zeros(layouts[0].pages, dtype=np.bool_)
        # Pages of blocks that the host did not back when it was looked at, and those that it backed a little later.
        self._never = np.zeros(layouts[0].pages, dtype=np.bool_)
        self._late = EMPTY
        # Of what is chosen while the guest is held, so many pages are copied then.
        self._allowed = 0
        self._held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def decline(self, why: str) -> None:
        """As in Witness: nothing will be known of this guest, for this reason. The first one counts."""
        self._note = self._note or why
        if self._talk is not None:
            self._talk.kill()
            self._talk, self._over = None, self._talk

    def _end(self) -> None:
        """What takes its time, and so not while a guest is held."""
        for talk in (self._talk, self._over):
            if talk is not None:
                talk.end()
        self._talk = self._over = None

    @contextmanager
    def _surviving(self) -> Iterator[None]:
        """Whatever goes wrong with the process is the end of the attribution, and not of the scan."""
        try:
            yield
        except WorkerRefused as error:
            self.decline(self._reason(error))
        except ProtocolError as error:
            told = self._talk.last_words() if isinstance(error, GoneError) and self._talk is not None else ""
            self.decline(f"the process that read it was given up: {told or error}")
        except (OSError, MemoryError) as error:
            self.decline(f"no process could be had that reads it: {error or 'memory ran out'}")

    def _reason(self, error: WorkerRefused) -> str:
        if self._talk is not None and not self._talk.copied.room and self._talk.copied.most < len(self._stale):
            limit = size(self._terms.memory_limit)
            return f"more of it would have to be copied than sources.memory_limit, which is {limit}"
        return str(error) if error.linux else f"{NO_LINUX}: {error}"

    def prepare(self, copies: PageSource) -> None:
        """As in Witness: find the kernel, and what will have to be copied."""
        known = self.known
        if not known.worth_a_look():
            self.decline(known.why)
            return
        with self._surviving():
            self._find(copies)
        if self._talk is None:
            known.looked_in_vain(self._note or NO_LINUX)
            return
        known.vain = 0
        with self._surviving():
            self._make_ready(self._talk)

    def _find(self, copies: PageSource) -> None:
        known = self.known
        warm = len(known.profile) > 0
        notes = known.notes if warm and known.notes is not None else self._search(copies)
        if not len(notes):
            return
        talk = self._talk = WorkerClient(self._layouts, self._terms, self._stop, self._program)
        try:
            self._look(talk, copies, notes, cold=not warm)
        except WorkerRefused:
            if not warm:
                raise
            # Another kernel has been started since, or this one lies elsewhere now.
            known.forget()
            notes = self._search(copies)
            if len(notes):
                self._look(talk, copies, notes, cold=True)

    def _search(self, copies: PageSource) -> NDArray[np.int64]:
        notes = self.known.notes = copies.starting_with(MARK)[:MOST_NOTES]
        if not len(notes):
            self.decline(NO_LINUX)
        return notes

    def _look(self, talk: WorkerClient, copies: PageSource, notes: NDArray[np.int64], *, cold: bool) -> None:
        known = self.known
        absent = copies.absent
        blocks = ~np.logical_and.reduceat(absent, np.arange(0, len(absent), BLOCK))
        self._never = ~np.repeat(blocks, BLOCK)[: len(absent)]
        seen = talk.look(copies, notes, known.profile, blocks, cold=cold)
        known.profile = seen.profile
        known.others = np.union1d(known.others, seen.others)
        self._needed = np.union1d(known.others, seen.array)
        self._chosen = np.setdiff1d(seen.selection, self._needed, assume_unique=True)

    def _make_ready(self, talk: WorkerClient) -> None:
        talk.copied.forget()
        if len(self._needed) > talk.copied.most:
            needed, limit = size(len(self._needed) * PAGE_SIZE), size(self._terms.memory_limit)
            self.decline(f"{needed} of it would have to be copied, and more; sources.memory_limit is {limit}")
            return
        talk.copied.ready(self.expected(None))

    def expected(self, written: NDArray[np.bool_] | None) -> int:
        """As in Witness."""
        if self._talk is None:
            return 0
        if written is None:
            return min(len(self._needed) + self._most_chosen, self._talk.copied.most)
        stale = written | self._stale
        count = np.count_nonzero(stale[self._needed]) + np.count_nonzero(stale[self._chosen])
        if count > self._talk.copied.room or self._stale.any():
            return self.expected(None)  # all of it anew: there is no room beside what there is (_renew)
        return min(int(count) + self._more, self._talk.copied.most)

    @property
    def _more(self) -> int:
        """What may be copied of what is chosen while the guest is held, and was not before: the guest says so."""
        return len(self._chosen) // MORE + MARGIN

    @property
    def _most_chosen(self) -> int:
        return len(self._chosen) + self._more

    def ahead(self, copies: PageSource) -> None:
        """As in Witness."""
        with self._surviving():
            if self._talk is not None:
                self._talk.copied.forget()
                self._stale.fill(False)
                self._talk.copied.add(copies, np.concatenate([self._needed, self._chosen]))

    def again(self, copies: PageSource, written: NDArray[np.bool_]) -> None:
        """As in Witness."""
        with self._surviving():
            if self._talk is not None:
                self._renew(self._talk, copies, written)

    def _renew(self, talk: WorkerClient, copies: PageSource, written: NDArray[np.bool_]) -> None:
        """Copy anew what was written, as far as there is room beside what is there already."""
        pages = np.concatenate([self._needed, self._chosen])
        present = copies.present[pages]
        gone, pages = pages[~present], pages[present & (written | self._stale)[pages]]
        if len(pages) > talk.copied.room:
            # All is copied once more, while the guest is held, over what there is.
            self._stale[pages] = True
            return
        talk.copied.add(copies, pages)
        talk.copied.add(copies, gone)  # which takes no room
        self._stale[pages] = False

    @contextmanager
    def held(self, copies: PageSource, written: NDArray[np.bool_] | None) -> Iterator[None]:
        """As in Witness."""
        with self._surviving():
            self._copy(copies, written)
        yield
        with self._surviving():
            self._copy_chosen(copies)

    def _copy(self, copies: PageSource, written: NDArray[np.bool_] | None) -> None:
        talk = self._talk
        if talk is None:
            return
        if written is not None:
            self._renew(talk, copies, written)
        self._allowed = self._more
        if written is None or self._stale.any():
            talk.copied.forget()
            talk.copied.add(copies, self._needed)
            self._allowed = self._most_chosen
        talk.choose(self._needed, time.monotonic() + CHOOSING)
        self._late = np.flatnonzero(self._never & ~copies.absent)

    def _copy_chosen(self, copies: PageSource) -> None:
        talk = self._talk
        if talk is None:
            return
        chosen = talk.chosen(time.monotonic() + CHOOSING)
        lacking = chosen[talk.copied.slots[chosen] < 0]
        talk.copied.add(copies, lacking[: self._allowed])
        self._chosen = chosen
        self._held = True

    def think(self) -> None:
        """The guest runs on, and what was copied is thought over; `conclude` waits for it."""
        with self._surviving():
            if self._talk is not None and self._held:
                self._talk.think(self._chosen)
            else:
                self._end()

    def conclude(self) -> PageOwners:
        """Whose the pages were at the instant of the digest, or why that is not known; after `think`."""
        found: PageOwners | None = None
        with self._surviving():
            if self._talk is not None and self._held:
                lacking = int(np.count_nonzero(self._talk.copied.slots[self._chosen] < 0))
                found, self.known.others = self._talk.thought()
                found.kinds[self._late], found.labels[self._late] = KIND["unknown"], -1
                found = replace(found, note=found.note or self._lacking(lacking))
        self._end()
        if found is None:
            if self._held:
                self.known.forget()  # it may have come to grief over what is known
            return PageOwners.unknown(len(self._stale), self._note or "it was not read at one instant")
        return found

    def _lacking(self, pages: int) -> str | None:
        if not pages:
            return None
        return f"{pages} pages of its kernel's were not copied (sources.memory_limit, or swapped out)"
