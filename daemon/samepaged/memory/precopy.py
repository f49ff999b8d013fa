"""Reading a guest while it runs, and suspended only what it wrote meanwhile: the same bytes as of one instant.

As live migration does with its dirty log (Clark et al., NSDI 2005), with soft-dirty bits for the log. Each round ends
in a pause in which the bits are read: if what was written is little enough to be read at once, it is, and the digest is
that of this instant; else the bits are cleared and the guest runs on while that is read.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.errors import GuestError, Reason
from samepaged.memory import softdirty
from samepaged.memory.observer import NullObserver, PageAccess
from samepaged.memory.pagemap import PRESENT
from samepaged.memory.pagemap import SWAPPED as SWAPPED_ENTRY
from samepaged.memory.process_ram import BLOCK_PAGES, block_numbers
from samepaged.memory.residency import Residency
from samepaged.sharing.digest import ABSENT, SWAPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from samepaged.memory.observer import PageObserver
    from samepaged.memory.process_ram import ProcessRam
    from samepaged.memory.reader import Pause
    from samepaged.memory.throughput import ThroughputModel

__all__ = ["COPY_TOO_LONG", "DoesNotConverge", "Precopy", "Verification"]

COPY_TOO_LONG: Final = (
    "copying for it would have made the pause longer than scan.max_pause, or than scan.max_drift leaves"
)

MAX_ROUNDS: Final = 16
# A round that leaves more than this part of the round before to read gains too little. It is near 1 for huge pages:
# with bits of 2 MiB, what is left shrinks slowly at first, as each interval is only a little shorter than the last.
MAX_REMAINDER_RATIO: Final = 0.9
# With fewer pages than this part written, clearing all bits costs the guest more than reading these again next time.
MIN_WRITTEN_RATIO: Final = 1 / 256
# Pages whose bits are looked at together; fresh memory for all at once would cost as much as the looking.
LOOK_PAGES: Final = 1 << 17
# Pages that are checked at each scan during which KSM merges (softdirty.stale has the reason).
SAMPLE_PAGES_WHILE_MERGING: Final = 1024


class DoesNotConverge(Exception):  # noqa: N818 - no error: the caller takes another mode
    """The guest writes faster than it can be read, or is too large to be looked at: the pause would be too long."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How many pages, drawn at random of those that were not read again, are read all the same while suspended; a wrong
    hash that nobody notices would be the worst of faults.
    """

    pages: int
    random: np.random.Generator


@dataclass(frozen=True, slots=True)
class _Look:
    """What the bits said: page numbers, ascending, of those to read and of those that seem swapped; whether KSM was
    merging; and the seconds that looking took.
    """

    stale: NDArray[np.intp]
    swapped: NDArray[np.intp]
    merging: bool
    seconds: float


@dataclass(slots=True)
class Precopy:
    """One precopy scan. `merging` says whether KSM has been at work since it began, and was not held still. `budget` is
    the longest pause, in seconds. What it learns of the guest's pace goes into `pace`.
    """

    reader: ProcessRam
    pause: Pause
    pace: ThroughputModel
    budget: float
    merging: Callable[[], bool]
    verification: Verification | None
    witness: PageObserver = field(default_factory=NullObserver)

    def run(self, known: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
        """The digest of the instant of the last pause: uint64 of shape (pages,), as in PageDigest.

        `known`, where given, is the digest of an earlier scan from which on the bits were kept, and is changed in
        place: then only what was written since is read. Raises GuestError, and DoesNotConverge.
        """
        digest = self._first_pass() if known is None else known
        if self.witness.expected(None):
            self.witness.ahead(PageAccess(self.reader))
        before = self.reader.pages
        for round_ in range(MAX_ROUNDS):
            expected = self.pace.overhead + self.pace.looking * self.reader.pages
            self._fit(expected)
            with self.pause(expected):
                look = self._look(digest)
                count = len(look.stale)
                shrinking = count <= MAX_REMAINDER_RATIO * before and round_ < MAX_ROUNDS - 1
                clear = known is not None and round_ == 0 and count > MIN_WRITTEN_RATIO * self.reader.pages
                if self._enough(count, clear=clear) or not shrinking:
                    self._finish(look, digest, clear=clear)
                    return digest
                self._fit(self.pace.overhead + look.seconds + self._clearing)
                self._clear()
            if self.witness.expected(None):
                self.witness.again(self._copies(look, digest), self._written(look))
            self._hash(look.stale, digest)
            before = count
        raise DoesNotConverge

    def _first_pass(self) -> NDArray[np.uint64]:
        # Cleared first: what is written from here on has its bit set when the guest is next suspended.
        self._clear()
        # But for what the host's disks were writing into pages pinned before: it lands after the bit was cleared, and
        # sets none (O_DIRECT; mm/gup.c). Suspending waits for block I/O in flight (vm_stop drains it), so all of it has
        # landed before anything is read. Later the bits are cleared while suspended, and nothing is in flight then.
        with self.pause(self.pace.overhead) as held:
            pass
        self.pace.learn_overhead(held.seconds)
        digest = np.full(self.reader.pages, ABSENT, dtype=np.uint64)
        began = time.monotonic()
        entries = self.reader.entries()
        _settle(entries, digest)
        present = np.flatnonzero(entries >= PRESENT)
        self.pace.learn_looking(self.reader.pages, time.monotonic() - began)
        self._fit(self.pace.overhead + self.pace.looking * self.reader.pages)
        self._hash(present, digest)
        return digest

    def _fit(self, seconds: float) -> None:
        if seconds > self.budget:
            raise DoesNotConverge

    @property
    def _clearing(self) -> float:
        return self.pace.clearing * self.reader.pages

    def _enough(self, count: int, *, clear: bool) -> bool:
        """Whether to read so many pages at once (and to `clear` the bits then) takes no longer than a further round
        would take of the guest, which begins with clearing.
        """
        another = self.pace.overhead + self.pace.looking * self.reader.pages + self._clearing
        return self.pace.seconds(count) + clear * self._clearing <= another

    def _look(self, digest: NDArray[np.uint64]) -> _Look:
        began = time.monotonic()
        merging = self.merging()
        stale, swapped = self._read_bits(digest, merging=merging)
        if not merging and self.merging():  # it began after that, and may have dropped bits before they were read
            merging = True
            stale, swapped = self._read_bits(digest, merging=True)
        seconds = time.monotonic() - began
        self.pace.learn_looking(self.reader.pages, seconds)
        return _Look(stale, swapped, merging, seconds)

    def _read_bits(self, digest: NDArray[np.uint64], *, merging: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        stale, swapped = [], []
        for first in range(0, self.reader.pages, LOOK_PAGES):
            part = digest[first : first + LOOK_PAGES]
            entries = self.reader.entries(first, first + len(part))
            stale.append(np.flatnonzero(softdirty.changed_pages(entries, part, merging=merging)) + first)
            swapped.append(_settle(entries, part) + first)
        return np.concatenate(stale), np.concatenate(swapped)

    def _clear(self) -> None:
        began = time.monotonic()
        softdirty.clear(self.reader.pid)
        self.pace.learn_clearing(self.reader.pages, time.monotonic() - began)

    def _hash(self, pages: NDArray[np.intp], digest: NDArray[np.uint64]) -> None:
        began = time.monotonic()
        self.reader.hash_pages(pages, digest)
        self.pace.learn(len(pages), time.monotonic() - began)

    def _finish(self, look: _Look, digest: NDArray[np.uint64], *, clear: bool) -> None:
        """Read the rest, if this fits the budget; the guest is suspended."""
        verification = self.verification
        if verification is None and look.merging:
            verification = Verification(SAMPLE_PAGES_WHILE_MERGING, np.random.default_rng())
        checked = 0 if verification is None else verification.pages
        looked_at_again = len(block_numbers(look.swapped)) * BLOCK_PAGES
        needed = (
            self.pace.overhead
            + look.seconds
            + self.pace.seconds(len(look.stale) + checked)
            + self.pace.looking * looked_at_again
            + clear * self._clearing
        )
        self._fit(needed)
        with self._witnessed(look, digest, needed):
            self._hash(look.stale, digest)
            # Entries of pages that are being migrated look like those of swapped ones, for a moment (process_ram).
            self._hash(self.reader.now_present(look.swapped), digest)
        if verification is not None:
            self._verify(verification, look, digest)
        if clear:
            self._clear()

    @contextmanager
    def _witnessed(self, look: _Look, digest: NDArray[np.uint64], needed: float) -> Iterator[None]:
        """For the reading of the rest, which takes so many seconds: with the witness, if this fits the budget, too."""
        if not self.witness.expected(None):
            yield
            return
        written = self._written(look)
        if needed + self.pace.copying_seconds(self.witness.expected(written)) > self.budget:
            self.witness.decline(COPY_TOO_LONG)
            self.pace.reconsider_copying()
            yield
            return
        copies = self._copies(look, digest)
        began = time.monotonic()
        with self.witness.held(copies, written):
            read = time.monotonic()
            yield
            ended = time.monotonic()
        self.pace.learn_copying(copies.copied, time.monotonic() - ended + read - began)

    def _written(self, look: _Look) -> NDArray[np.bool_]:
        written = np.zeros(self.reader.pages, dtype=np.bool_)
        written[look.stale] = True
        return written

    def _copies(self, look: _Look, digest: NDArray[np.uint64]) -> PageAccess:
        """The pages as the bits' entries told: those that are not present have settled in the digest."""
        swapped = digest == SWAPPED
        present = digest > SWAPPED
        swapped[look.stale], present[look.stale] = False, True
        return PageAccess(self.reader, Residency(present, np.zeros_like(present), swapped))

    def _verify(self, verification: Verification, look: _Look, digest: NDArray[np.uint64]) -> None:
        unread = digest > SWAPPED
        unread[look.stale] = False
        candidates = np.flatnonzero(unread)
        count = min(verification.pages, len(candidates))
        drawn = verification.random.choice(len(candidates), count, replace=False, shuffle=False)
        chosen = candidates[np.sort(drawn)]
        held = digest[chosen]
        self.reader.hash_pages(chosen, digest)
        wrong = int(np.count_nonzero(digest[chosen] != held))
        if wrong:
            raise GuestError(
                Reason.VERIFICATION,
                f"{wrong} of {len(chosen)} pages that were held to be unchanged were not: this scan is void, and the "
                "guest is read whole from now on; please report it, with the kernel's version",
            )


def _settle(entries: NDArray[np.uint64], digest: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Note in the digest what the entries of pages that are not present say; the numbers of those that seem swapped."""
    missing = np.flatnonzero(entries < PRESENT)  # the highest bit
    swapped = (entries[missing] & SWAPPED_ENTRY) != 0
    digest[missing] = np.where(swapped, np.uint64(SWAPPED), np.uint64(ABSENT))
    seem_swapped: NDArray[np.intp] = missing[swapped]
    return seem_swapped
