"""The interface between a scan and the readers of guest memory: the protocol `Reader`, its input, and its results."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from samepaged.arch import PAGE_SIZE
from samepaged.drift.budget import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from samepaged.config import ScanConfig
    from samepaged.drift.budget import DriftBudget
    from samepaged.errors import GuestError
    from samepaged.memory.hashing import Hashing
    from samepaged.memory.modes import FallbackReason
    from samepaged.memory.observer import PageObserver
    from samepaged.memory.ram_location import RamMapping
    from samepaged.memory.scan_state import EarlierScan, ScanState
    from samepaged.sharing.digest import PageDigest

__all__ = [
    "Capture",
    "Forecast",
    "GuestControl",
    "GuestMemory",
    "Pause",
    "PauseMeter",
    "Reader",
    "ScanRequest",
    "SuspendedGuest",
]


class SuspendedGuest(Protocol):
    """One pause. `seconds` is the time for which the guest was suspended, valid after the pause. It excludes
    preparation and cleanup, during which the guest runs.
    """

    seconds: float


class Pause(Protocol):
    """A context manager during which the guest is suspended."""

    def __call__(self, expected: float = 0.0, *, dumping: bool = False) -> AbstractContextManager[SuspendedGuest]:
        """Suspend the guest on entry and resume it on exit. `expected` is the predicted length of the pause in seconds;
        it exceeds scan.max_pause only at the operator's request. `dumping` announces a dump of the guest. Raises
        GuestError if the pages read meanwhile are void.
        """


class PauseMeter:
    """A `Pause` with the total length of its pauses in `seconds`."""

    def __init__(self, pause: Pause) -> None:
        self._pause = pause
        self.seconds = 0.0

    @contextmanager
    def __call__(self, expected: float = 0.0, *, dumping: bool = False) -> Iterator[SuspendedGuest]:
        """One more pause."""
        held: SuspendedGuest | None = None
        try:
            with self._pause(expected, dumping=dumping) as held:
                yield held
        finally:
            if held is not None:
                self.seconds += held.seconds


@dataclass(frozen=True, slots=True)
class GuestMemory:
    """The guest to read: the PID of its QEMU process and the sizes of its RAM blocks in bytes. `paused` is true if
    another client has paused it, `vfio` if a passed-through device writes to its memory.
    """

    pid: int
    blocks: tuple[int, ...]
    paused: bool
    vfio: bool


@dataclass(frozen=True, slots=True)
class GuestControl:
    """Operations of a scan on the guest: suspend it, and dump it to a path (a FIFO in `directory`)."""

    pause: Pause
    dump: Callable[[Path], None]
    directory: Path


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """The request for a scan: the configuration, and the time for which scans may still suspend the guest (`budget`).
    With `one_instant`, the scan fails instead of reading the guest in slices of several instants.
    """

    config: ScanConfig
    budget: DriftBudget = UNLIMITED
    one_instant: bool = False

    @property
    def subpage_sizes(self) -> tuple[int, ...]:
        """Subpage sizes to hash in addition, in bytes. If there are any, every scan reads all pages."""
        return tuple(size for size in self.config.page_sizes if size < PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The scan that would run now. `pause` is the longest predicted single pause in seconds: for precopy it assumes a
    guest with few writes, and may grow up to scan.max_pause. `snapshot` is the length of one pause for the whole read.
    `backed` is in bytes, None if unknown (a dump reads all of the memory). `obstacle` is the reason against a better
    mode, if any. `total` is the sum of the scan's pauses in seconds.
    """

    mode: str
    reader: str
    pause: float
    snapshot: float
    backed: int | None
    obstacle: FallbackReason | None
    total: float = 0.0
    mappings: tuple[RamMapping, ...] = ()


@dataclass(frozen=True, slots=True)
class Capture:
    """The result of a scan: the digest, the mode and the reader used, bytes read, and the reason if this is not the
    requested mode or reader. `subpages` are the digests in subpage sizes. `merge_obstacle` is the reason against
    merging by KSM, as far as the mappings show. `not_exclusive` is the result of ProcessRam.count_not_exclusive.
    """

    digest: PageDigest
    mode: str
    reader: str
    bytes_read: int
    fallback: FallbackReason | None = None
    subpages: tuple[PageDigest, ...] = ()
    merge_obstacle: str | None = None
    not_exclusive: int = 0


class Reader(Protocol):
    """A method to read a guest's memory; an instance is for one scan of one guest."""

    name: ClassVar[str]
    """Value of scan.reader and of the label `reader`."""

    label: ClassVar[str]
    """Meaning of the label value for the documentation of metrics, as a phrase with the guest as its subject."""

    modes: ClassVar[frozenset[str]]
    """The consistency modes that the reader supports."""

    needs_process: ClassVar[bool]
    """Whether it reads the QEMU process, which requires capabilities."""

    def __init__(
        self, guest: GuestMemory, request: ScanRequest, state: ScanState, replaced: GuestError | None = None
    ) -> None:
        """Find the guest's memory. `replaced` is the error of the reader that this one replaces. Raises GuestError,
        with Reason.LAYOUT if another reader may find the memory.
        """

    def forecast(self) -> Forecast:
        """Predict the scan that `read` would make, without touching the guest or its process. Raises GuestError as
        `read` would.
        """

    def read(self, control: GuestControl, hashing: Hashing, observer: PageObserver, earlier: EarlierScan) -> Capture:
        """Read the guest, and update the state for the next scan. If the drift budget refuses the scan before it
        begins, `earlier` stays in the state. Raises GuestError, and Interrupted.
        """
