"""The state of a guest between scans: its digest, its throughput, and the epoch of its soft-dirty bits."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from samepaged import ksm
from samepaged.errors import GuestError, Reason
from samepaged.memory.modes import ThroughputModel
from samepaged.memory.softdirty import SoftDirtyLock

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from samepaged.memory.ram_location import RamMapping

__all__ = ["EarlierScan", "ScanState", "SoftDirtyEpoch", "limit_memory"]


@dataclass(frozen=True, slots=True)
class SoftDirtyEpoch:
    """A period in which the soft-dirty bits of one process show all its writes.

    It holds the lock of the bits, so that another samepaged process does not clear them meanwhile. KSM drops bits when
    it merges pages, so KSM activity also ends an epoch.
    """

    pid: int
    mappings: tuple[RamMapping, ...]
    lock: SoftDirtyLock
    ksm_activity: tuple[str | None, ...]

    @classmethod
    def begin(cls, pid: int, mappings: tuple[RamMapping, ...]) -> SoftDirtyEpoch:
        """Lock the bits of a process. The caller clears them afterwards. Raises LockHeld, and GuestError."""
        return cls(pid, mappings, SoftDirtyLock(pid), ksm.activity())

    def end(self) -> None:
        """Release the lock."""
        self.lock.release()

    def lasts(self, pid: int, mappings: tuple[RamMapping, ...]) -> bool:
        """Whether the bits still show all writes to these mappings."""
        if (self.pid, self.mappings) != (pid, mappings):
            return False
        mergeable = any(mapping.mergeable for mapping in mappings)
        return not (mergeable and (ksm.is_running() or ksm.activity() != self.ksm_activity))


@dataclass(frozen=True, slots=True)
class EarlierScan:
    """The starting point of precopy: the digest of the last scan, and the epoch since."""

    digest: NDArray[np.uint64] | None = None
    epoch: SoftDirtyEpoch | None = None


@dataclass(slots=True)
class ScanState:
    """State of one guest (one process of it): the digest of its last scan, the epoch since, and its throughput. If
    `distrusted`, a scan found that its soft-dirty bits miss writes, so all pages are read.
    """

    start_time: int
    throughput: ThroughputModel = field(default_factory=ThroughputModel)
    digest: NDArray[np.uint64] | None = None
    epoch: SoftDirtyEpoch | None = None
    scans: int = 0
    distrusted: bool = False

    def take(self) -> EarlierScan:
        """Remove and return the digest and the epoch as the start of a scan. After a failed scan the state is empty."""
        earlier = EarlierScan(self.digest, self.epoch)
        self.digest = self.epoch = None
        return earlier

    @contextmanager
    def restored_if_refused(self, earlier: EarlierScan) -> Iterator[None]:
        """Restore `earlier` if the drift budget refuses the scan before it begins."""
        try:
            yield
        except GuestError as error:
            if error.reason is Reason.DRIFT_BUDGET:
                self.digest, self.epoch = earlier.digest, earlier.epoch
            raise

    def forget(self) -> None:
        """Free the digest, which takes the most memory: the next scan reads all pages."""
        if self.epoch is not None:
            self.epoch.end()
        self.digest = self.epoch = None


def limit_memory(states: Iterable[ScanState], most: int) -> int:
    """Forget digests, the largest first, until the rest takes at most `most` bytes. Return the number forgotten."""
    holding = sorted((one for one in states if one.digest is not None), key=lambda one: -_size(one))
    total = sum(_size(one) for one in holding)
    forgotten = 0
    for one in holding:
        if total <= most:
            break
        total -= _size(one)
        one.forget()
        forgotten += 1
    return forgotten


def _size(state: ScanState) -> int:
    return 0 if state.digest is None else state.digest.nbytes
