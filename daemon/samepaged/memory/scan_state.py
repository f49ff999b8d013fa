"""What is kept of a guest from one scan to the next: its hashes, how fast it is read, and whether the kernel has noted
every write since.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from samepaged import ksm
from samepaged.errors import GuestError, Reason
from samepaged.memory.softdirty import SoftDirtyLock
from samepaged.memory.throughput import ThroughputModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from samepaged.memory.ram_location import RamMapping

__all__ = ["ScanState", "SoftDirtyEpoch", "limit_memory"]


@dataclass(frozen=True, slots=True)
class SoftDirtyEpoch:
    """A stretch of time in which the soft-dirty bits of one process tell all its writes.

    It holds the claim to them for as long as it is kept, so that no other samepaged clears them meanwhile. KSM drops
    bits as it merges pages, so an epoch also ends where KSM has been at work.
    """

    pid: int
    mappings: tuple[RamMapping, ...]
    claim: SoftDirtyLock
    ksm_activity: tuple[str | None, ...]

    @classmethod
    def begin(cls, pid: int, mappings: tuple[RamMapping, ...]) -> SoftDirtyEpoch:
        """Claim the bits of a process; they are cleared after this. Raises Claimed, and GuestError."""
        return cls(pid, mappings, SoftDirtyLock(pid), ksm.activity())

    def end(self) -> None:
        """Let others have the bits."""
        self.claim.release()

    def lasts(self, pid: int, mappings: tuple[RamMapping, ...]) -> bool:
        """Whether the bits still tell all writes to these mappings."""
        if (self.pid, self.mappings) != (pid, mappings):
            return False
        mergeable = any(mapping.mergeable for mapping in mappings)
        return not (mergeable and (ksm.is_running() or ksm.activity() != self.ksm_activity))


@dataclass(slots=True)
class ScanState:
    """Of one guest (one process of it): the digest of its last scan, the epoch since, and what was learnt of it.
    `distrusted` says that its bits were found to lie; then it is read whole.
    """

    start_time: int
    pace: ThroughputModel = field(default_factory=ThroughputModel)
    digest: NDArray[np.uint64] | None = None
    epoch: SoftDirtyEpoch | None = None
    scans: int = 0
    distrusted: bool = False

    @contextmanager
    def restored_if_refused(self, digest: NDArray[np.uint64] | None, epoch: SoftDirtyEpoch | None) -> Iterator[None]:
        """A scan that the drift budget refuses before it begins takes nothing from the next one: these are kept."""
        try:
            yield
        except GuestError as error:
            if error.reason is Reason.DRIFT_BUDGET:
                self.digest, self.epoch = digest, epoch
            raise

    def forget(self) -> None:
        """Let go of the digest, which is what takes memory: the next scan reads all."""
        if self.epoch is not None:
            self.epoch.end()
        self.digest = self.epoch = None


def limit_memory(kept: Iterable[ScanState], most: int) -> int:
    """Forget digests, the largest first, until the rest takes no more than `most` bytes; how many were forgotten."""
    holding = sorted((one for one in kept if one.digest is not None), key=lambda one: -_size(one))
    total = sum(_size(one) for one in holding)
    forgotten = 0
    for one in holding:
        if total <= most:
            break
        total -= _size(one)
        one.forget()
        forgotten += 1
    return forgotten


def _size(kept: ScanState) -> int:
    return 0 if kept.digest is None else kept.digest.nbytes
