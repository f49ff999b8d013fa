"""Mode `precopy`: reads a guest while it runs, then reads the pages written meanwhile while it is suspended. The result
is a digest of one instant.

This is the method of live migration (Clark et al., NSDI 2005), with soft-dirty bits as the dirty log. Each round ends
with a pause in which the bits are read. If few pages were written, they are read in the pause, and the digest is that
of this instant. Otherwise the bits are cleared, and the pages are read while the guest runs on.
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
from samepaged.memory.pagemap import PRESENT, Residency
from samepaged.memory.pagemap import SWAPPED as SWAPPED_ENTRY
from samepaged.memory.process_ram import BLOCK_PAGES, block_numbers
from samepaged.sharing.digest import ABSENT, SWAPPED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from samepaged.memory.modes import ThroughputModel
    from samepaged.memory.observer import PageObserver
    from samepaged.memory.process_ram import ProcessRam
    from samepaged.memory.reader import Pause

__all__ = ["PAUSE_TOO_SHORT_FOR_COPY", "DoesNotConverge", "Precopy", "Verification"]

PAUSE_TOO_SHORT_FOR_COPY: Final = (
    "copying its pages would have made the pause longer than scan.max_pause or the drift budget (scan.max_drift) allows"
)

MAX_ROUNDS: Final = 16
# A round gains too little if it leaves more than this part of the pages of the round before. It is near 1 because of
# huge pages: with one bit for 2 MiB, the rest shrinks slowly at first, as each interval is only slightly shorter.
MAX_REMAINDER_RATIO: Final = 0.9
# If less than this part of the pages was written, clearing all bits costs more than reading these pages again next
# time.
MIN_WRITTEN_RATIO: Final = 1 / 256
# Number of pages for one read of the bits; allocating memory for all pages would cost as much as the read.
LOOK_PAGES: Final = 1 << 17
# Pages that are verified in each scan during which KSM merges (softdirty.changed_pages has the reason).
SAMPLE_PAGES_WHILE_MERGING: Final = 1024


class DoesNotConverge(Exception):  # noqa: N818 - not an error: the caller chooses another mode
    """The pause would be too long, because the guest writes faster than precopy reads, or because the guest is too
    large to read its soft-dirty bits.
    """


@dataclass(frozen=True, slots=True)
class Verification:
    """The number of pages, sampled at random from those that seem unchanged, to read again while the guest is
    suspended: an unnoticed wrong hash would be the worst fault.
    """

    pages: int
    random: np.random.Generator


@dataclass(frozen=True, slots=True)
class _Look:
    """The result of reading the soft-dirty bits: page numbers, ascending, of the pages to read and of those that seem
    swapped; whether KSM was merging; and the seconds that the read took.
    """

    changed: NDArray[np.intp]
    swapped: NDArray[np.intp]
    merging: bool
    seconds: float


@dataclass(slots=True)
class Precopy:
    """One precopy scan. `merging` returns whether KSM was active since the scan began. `max_pause` is the limit for a
    pause in seconds. `throughput` records measured speeds.
    """

    ram: ProcessRam
    pause: Pause
    throughput: ThroughputModel
    max_pause: float
    merging: Callable[[], bool]
    verification: Verification | None
    observer: PageObserver = field(default_factory=NullObserver)

    def run(self, known: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
        """Return the digest of the instant of the last pause: uint64 of shape (pages,), as in PageDigest.

        `known` is the digest of an earlier scan with a valid soft-dirty epoch. It is changed in place, and only pages
        written since are read. Raises GuestError, and DoesNotConverge.
        """
        digest = self._first_pass() if known is None else known
        if self.observer.expected_copies(None):
            self.observer.copy_running(PageAccess(self.ram))
        before = self.ram.pages
        for round_ in range(MAX_ROUNDS):
            expected = self.throughput.overhead + self.throughput.looking * self.ram.pages
            self._fit(expected)
            with self.pause(expected):
                look = self._look(digest)
                count = len(look.changed)
                shrinking = count <= MAX_REMAINDER_RATIO * before and round_ < MAX_ROUNDS - 1
                clear = known is not None and round_ == 0 and count > MIN_WRITTEN_RATIO * self.ram.pages
                if self._enough(count, clear=clear) or not shrinking:
                    self._finish(look, digest, clear=clear)
                    return digest
                self._fit(self.throughput.overhead + look.seconds + self._clearing)
                self._clear()
            if self.observer.expected_copies(None):
                self.observer.copy_written(self._copies(look, digest), self._written(look))
            self._hash(look.changed, digest)
            before = count
        raise DoesNotConverge

    def _first_pass(self) -> NDArray[np.uint64]:
        # Clear first: pages written from here on have their bits set at the next pause.
        self._clear()
        # The exception is disk I/O into pages that were pinned before (O_DIRECT; mm/gup.c): it may write after the bit
        # was cleared, and does not set it. Suspending waits for block I/O in flight (vm_stop drains it), so all of it
        # has completed before the first read. Later the bits are cleared while suspended, without I/O in flight.
        with self.pause(self.throughput.overhead) as held:
            pass
        self.throughput.learn_overhead(held.seconds)
        digest = np.full(self.ram.pages, ABSENT, dtype=np.uint64)
        began = time.monotonic()
        entries = self.ram.entries()
        _settle(entries, digest)
        present = np.flatnonzero(entries >= PRESENT)
        self.throughput.learn_looking(self.ram.pages, time.monotonic() - began)
        self._fit(self.throughput.overhead + self.throughput.looking * self.ram.pages)
        self._hash(present, digest)
        return digest

    def _fit(self, seconds: float) -> None:
        if seconds > self.max_pause:
            raise DoesNotConverge

    @property
    def _clearing(self) -> float:
        return self.throughput.clearing * self.ram.pages

    def _enough(self, count: int, *, clear: bool) -> bool:
        """Whether reading this number of pages now (and clearing the bits, with `clear`) suspends the guest no longer
        than another round, which begins with clearing.
        """
        another = self.throughput.overhead + self.throughput.looking * self.ram.pages + self._clearing
        return self.throughput.seconds(count) + clear * self._clearing <= another

    def _look(self, digest: NDArray[np.uint64]) -> _Look:
        began = time.monotonic()
        merging = self.merging()
        changed, swapped = self._read_bits(digest, merging=merging)
        if not merging and self.merging():  # KSM began meanwhile, and may have dropped bits before they were read
            merging = True
            changed, swapped = self._read_bits(digest, merging=True)
        seconds = time.monotonic() - began
        self.throughput.learn_looking(self.ram.pages, seconds)
        return _Look(changed, swapped, merging, seconds)

    def _read_bits(self, digest: NDArray[np.uint64], *, merging: bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        changed, swapped = [], []
        for first in range(0, self.ram.pages, LOOK_PAGES):
            part = digest[first : first + LOOK_PAGES]
            entries = self.ram.entries(first, first + len(part))
            changed.append(np.flatnonzero(softdirty.changed_pages(entries, part, merging=merging)) + first)
            swapped.append(_settle(entries, part) + first)
        return np.concatenate(changed), np.concatenate(swapped)

    def _clear(self) -> None:
        began = time.monotonic()
        softdirty.clear(self.ram.pid)
        self.throughput.learn_clearing(self.ram.pages, time.monotonic() - began)

    def _hash(self, pages: NDArray[np.intp], digest: NDArray[np.uint64]) -> None:
        began = time.monotonic()
        self.ram.hash_pages(pages, digest)
        self.throughput.learn(len(pages), time.monotonic() - began)

    def _finish(self, look: _Look, digest: NDArray[np.uint64], *, clear: bool) -> None:
        """Read the changed pages while the guest is suspended. Raises DoesNotConverge if this exceeds max_pause."""
        verification = self.verification
        if verification is None and look.merging:
            verification = Verification(SAMPLE_PAGES_WHILE_MERGING, np.random.default_rng())
        checked = 0 if verification is None else verification.pages
        looked_at_again = len(block_numbers(look.swapped)) * BLOCK_PAGES
        needed = (
            self.throughput.overhead
            + look.seconds
            + self.throughput.seconds(len(look.changed) + checked)
            + self.throughput.looking * looked_at_again
            + clear * self._clearing
        )
        self._fit(needed)
        with self._observed(look, digest, needed):
            self._hash(look.changed, digest)
            # During the migration of a page, its entry looks like that of a swapped page (process_ram).
            self._hash(self.ram.now_present(look.swapped), digest)
        if verification is not None:
            self._verify(verification, look, digest)
        if clear:
            self._clear()

    @contextmanager
    def _observed(self, look: _Look, digest: NDArray[np.uint64], needed: float) -> Iterator[None]:
        """A context for the last read, which takes `needed` seconds: with the observer, if its copy fits max_pause."""
        if not self.observer.expected_copies(None):
            yield
            return
        written = self._written(look)
        if needed + self.throughput.copying_seconds(self.observer.expected_copies(written)) > self.max_pause:
            self.observer.decline(PAUSE_TOO_SHORT_FOR_COPY)
            self.throughput.reconsider_copying()
            yield
            return
        copies = self._copies(look, digest)
        began = time.monotonic()
        with self.observer.while_suspended(copies, written):
            read = time.monotonic()
            yield
            ended = time.monotonic()
        self.throughput.learn_copying(copies.copied, time.monotonic() - ended + read - began)

    def _written(self, look: _Look) -> NDArray[np.bool_]:
        written = np.zeros(self.ram.pages, dtype=np.bool_)
        written[look.changed] = True
        return written

    def _copies(self, look: _Look, digest: NDArray[np.uint64]) -> PageAccess:
        """Page access with the residency found by `look`: the digest has the state of pages that are not present."""
        swapped = digest == SWAPPED
        present = digest > SWAPPED
        swapped[look.changed], present[look.changed] = False, True
        return PageAccess(self.ram, Residency(present, np.zeros_like(present), swapped))

    def _verify(self, verification: Verification, look: _Look, digest: NDArray[np.uint64]) -> None:
        unread = digest > SWAPPED
        unread[look.changed] = False
        candidates = np.flatnonzero(unread)
        count = min(verification.pages, len(candidates))
        drawn = verification.random.choice(len(candidates), count, replace=False, shuffle=False)
        chosen = candidates[np.sort(drawn)]
        held = digest[chosen]
        self.ram.hash_pages(chosen, digest)
        wrong = int(np.count_nonzero(digest[chosen] != held))
        if wrong:
            raise GuestError(
                Reason.VERIFICATION,
                f"{wrong} of {len(chosen)} sampled pages had changed, but their pagemap entries showed no change: this "
                "scan is void, and later scans read all pages of the guest",
                "report it with the kernel version",
            )


def _settle(entries: NDArray[np.uint64], digest: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Mark pages that are not present as swapped or absent in the digest; return the numbers of the swapped ones."""
    missing = np.flatnonzero(entries < PRESENT)  # the highest bit
    swapped = (entries[missing] & SWAPPED_ENTRY) != 0
    digest[missing] = np.where(swapped, np.uint64(SWAPPED), np.uint64(ABSENT))
    seem_swapped: NDArray[np.intp] = missing[swapped]
    return seem_swapped
