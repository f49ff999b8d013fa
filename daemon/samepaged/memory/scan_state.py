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
    """A stretch of time in which the soft-dirty bits of one process tell all its writes.

    It holds their lock, so that no other samepaged clears them meanwhile. KSM drops
    bits as it merges pages, so an epoch also ends where KSM has been at work.
    """

    pid: int
    mappings: tuple[RamMapping, ...]
    lock: SoftDirtyLock
    ksm_activity: tuple[str | None, ...]

    @classmethod
    def begin(cls, pid: int, mappings: tuple[RamMapping, ...]) -> SoftDirtyEpoch:
        """Lock the bits of a process; they are cleared after this. Raises LockHeld, and GuestError."""
        return cls(pid, mappings, SoftDirtyLock(pid), ksm.activity())

    def end(self) -> None:
        """Release the lock."""
        self.lock.release()

    def lasts(self, pid: int, mappings: tuple[RamMapping, ...]) -> bool:
        """Whether the bits still tell all writes to these mappings."""
        if (self.pid, self.mappings) != (pid, mappings):
            return False
        mergeable = any(mapping.mergeable for mapping in mappings)
        return not (mergeable and (ksm.is_running() or ksm.activity() != self.ksm_activity))


@dataclass(frozen=True, slots=True)
class EarlierScan:
    """What precopy starts from: the digest of the last scan, and the epoch since."""

    digest: NDArray[np.uint64] | None = None
    epoch: SoftDirtyEpoch | None = None


@dataclass(slots=True)
class ScanState:
    """State of one guest (one process of it): the digest of its last scan, the epoch since, and its throughput.
    `distrusted`: its soft-dirty bits were found to miss writes, so it is read whole.
    """

    start_time: int
    throughput: ThroughputModel = field(default_factory=ThroughputModel)
    digest: NDArray[np.uint64] | None = None
    epoch: SoftDirtyEpoch | None = None
    scans: int = 0
    distrusted: bool = False

    def take(self) -> EarlierScan:
        """Remove the digest and the epoch, for a scan to start from. A scan that fails leaves neither."""
        earlier = EarlierScan(self.digest, self.epoch)
        self.digest = self.epoch = None
        return earlier

    @contextmanager
    def restored_if_refused(self, earlier: EarlierScan) -> Iterator[None]:
        """Put `earlier` back if the drift budget refuses the scan before it begins."""
        try:
            yield
        except GuestError as error:
            if error.reason is Reason.DRIFT_BUDGET:
                self.digest, self.epoch = earlier.digest, earlier.epoch
            raise

    def forget(self) -> None:
        """Let go of the digest, which is what takes memory: the next scan reads all."""
        if self.epoch is not None:
            self.epoch.end()
        self.digest = self.epoch = None


def limit_memory(states: Iterable[ScanState], most: int) -> int:
    """Forget digests, the largest first, until the rest takes no more than `most` bytes; how many were forgotten."""
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
