"""Reading a guest while it runs, and suspended only what it wrote meanwhile: the same bytes as of one instant.

As live migration does with its dirty log (Clark et al., NSDI 2005), with soft-dirty bits for the log. Each round ends
in a pause in which the bits are read: if what was written is little enough to be read at once, it is, and the digest is
that of this instant; else the bits are cleared and the guest runs on while that is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged.errors import GuestError, Reason
from samepaged.memory import softdirty
from samepaged.memory.pagemap import PRESENT
from samepaged.memory.pagemap import SWAPPED as SWAPPED_ENTRY
from samepaged.sharing.digest import ABSENT, SWAPPED

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from samepaged.memory.pause import Pause
    from samepaged.memory.plan import Pace
    from samepaged.memory.process_reader import ProcessReader

__all__ = ["DoesNotConverge", "Precopy", "Verification"]

ROUNDS: Final = 8
# A round that leaves more than this part of the round before to read gains nothing any more.
SHRINKS: Final = 0.7
# With fewer pages than this part written, clearing all bits costs the guest more than reading these again next time.
WORTH_CLEARING: Final = 1 / 256


class DoesNotConverge(Exception):  # noqa: N818 - no error: the caller takes another mode
    """The guest writes faster than it can be read; to read the rest at once would be too long a pause."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How many pages, drawn at random of those that were not read again, are read all the same while suspended; a wrong
    hash that nobody notices would be the worst of faults.
    """

    pages: int
    random: np.random.Generator


@dataclass(slots=True)
class Precopy:
    """One precopy scan. `merging` says whether KSM has been at work since it began, and was not held still. `budget` is
    the longest pause, in seconds.
    """

    reader: ProcessReader
    pause: Pause
    pace: Pace
    budget: float
    merging: Callable[[], bool]
    verification: Verification | None

    def run(self, known: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
        """The digest of the instant of the last pause: uint64 of shape (pages,), as in PageDigest.

        `known`, where given, is the digest of an earlier scan from which on the bits were kept, and is changed in
        place: then only what was written since is read. Raises GuestError, and DoesNotConverge.
        """
        digest = self._first_pass() if known is None else known
        incremental = known is not None
        before = self.reader.pages
        for round_ in range(ROUNDS):
            with self.pause():
                entries = self.reader.entries()
                stale = softdirty.stale(entries, digest, merging=self.merging())
                count = int(np.count_nonzero(stale))
                seconds = self.pace.seconds(count)
                shrinking = count <= SHRINKS * before and round_ < ROUNDS - 1
                if self._enough(seconds) or not shrinking:
                    if seconds > self.budget:
                        raise DoesNotConverge
                    self._finish(entries, stale, digest)
                    if incremental and round_ == 0 and count > WORTH_CLEARING * self.reader.pages:
                        softdirty.clear(self.reader.pid)
                    return digest
                softdirty.clear(self.reader.pid)
            self._reread(entries, stale, digest)
            before = count
        raise DoesNotConverge

    def _first_pass(self) -> NDArray[np.uint64]:
        # Cleared first: what is written from here on has its bit set when the guest is next suspended.
        softdirty.clear(self.reader.pid)
        digest = np.full(self.reader.pages, ABSENT, dtype=np.uint64)
        entries = self.reader.entries()
        self._reread(entries, (entries & PRESENT) != 0, digest)
        return digest

    def _enough(self, seconds: float) -> bool:
        """Whether reading on would not shorten the pause: suspending and resuming alone take as long."""
        return seconds <= self.pace.overhead

    def _reread(self, entries: NDArray[np.uint64], stale: NDArray[np.bool_], digest: NDArray[np.uint64]) -> None:
        swapped = (entries & SWAPPED_ENTRY) != 0
        digest[(entries & (PRESENT | SWAPPED_ENTRY)) == 0] = ABSENT
        digest[swapped] = SWAPPED
        self.reader.hash_pages(np.flatnonzero(stale), digest)

    def _finish(self, entries: NDArray[np.uint64], stale: NDArray[np.bool_], digest: NDArray[np.uint64]) -> None:
        """Read the rest; the guest is suspended."""
        self._reread(entries, stale, digest)
        if (digest == SWAPPED).any():
            # Entries of pages that are being migrated look like those of swapped ones, for a moment (process_reader).
            now = self.reader.entries()
            self._reread(now, ((now & PRESENT) != 0) & (digest == SWAPPED), digest)
        if self.verification is not None:
            self._verify(self.verification, ((entries & PRESENT) != 0) & ~stale, digest)

    def _verify(self, verification: Verification, unread: NDArray[np.bool_], digest: NDArray[np.uint64]) -> None:
        drawn = np.unique(verification.random.integers(0, len(unread), verification.pages))
        chosen = drawn[unread[drawn]]
        held = digest[chosen]
        self.reader.hash_pages(chosen, digest)
        wrong = int(np.count_nonzero(digest[chosen] != held))
        if wrong:
            raise GuestError(
                Reason.VERIFICATION,
                f"{wrong} of {len(chosen)} pages that were held to be unchanged were not: this scan is void, and the "
                "guest is read whole from now on; please report it, with the kernel's version",
            )
