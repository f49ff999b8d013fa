"""The seam between a scan and the ways to read a guest: the protocol `Reader`, its input, and its results."""

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
    """One pause. `seconds` is the time for which the guest was suspended, valid after the pause: without preparation
    and cleanup, during which the guest runs.
    """

    seconds: float


class Pause(Protocol):
    """Holds the guest suspended while its context is entered."""

    def __call__(self, expected: float = 0.0, *, dumping: bool = False) -> AbstractContextManager[SuspendedGuest]:
        """Suspend on entering, resume on leaving; raises GuestError if the pages read meanwhile are void. `expected`
        is the predicted length of the pause in seconds, more than scan.max_pause only if the operator asked for that;
        `dumping` announces a dump of the guest.
        """


class PauseMeter:
    """A `Pause` that adds up its pauses, in `seconds`."""

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
    """The guest whose memory is to be read: the pid of its QEMU, the sizes of its RAM blocks in bytes, and whether
    another client has paused it and a passed-through device writes into it.
    """

    pid: int
    blocks: tuple[int, ...]
    paused: bool
    vfio: bool


@dataclass(frozen=True, slots=True)
class GuestControl:
    """What a scan may do to the guest: suspend it, and have it dumped into a path (a FIFO in `directory`)."""

    pause: Pause
    dump: Callable[[Path], None]
    directory: Path


@dataclass(frozen=True, slots=True)
class ScanRequest:
    """One scan to make: the configuration, and the seconds for which scans may still suspend the guest (`budget`). With
    `one_instant` the scan fails rather than read the guest in slices, which are of several instants.
    """

    config: ScanConfig
    budget: DriftBudget = UNLIMITED
    one_instant: bool = False

    @property
    def subpage_sizes(self) -> tuple[int, ...]:
        """Sizes below a page's to hash in as well (bytes). With any of these, all pages are read at each scan."""
        return tuple(size for size in self.config.page_sizes if size < PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The scan that would be made now. `pause` is the longest single pause that is predicted, in seconds: for precopy,
    that of a guest which writes little; it may grow up to scan.max_pause. `snapshot` is the length of one pause for the
    whole read. `backed` is in bytes, None if unknown (a dump takes all of the memory). `obstacle` is the reason against
    a better mode, if there is one. `total` is the sum of the scan's pauses in seconds.
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
    mode or reader asked for. `subpages` are the digests in the sizes below a page's. `merge_obstacle` is the reason
    against merging by KSM, as far as the mappings show; `not_exclusive` counts pages as
    ProcessRam.count_not_exclusive does.
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
    """One way to read a guest's memory; an instance is for one scan of one guest."""

    name: ClassVar[str]
    """Value of scan.reader and of the label `reader`."""

    label: ClassVar[str]
    """What the label's value says of a guest, for the documentation of metrics."""

    modes: ClassVar[frozenset[str]]
    """The consistency modes that it can read in."""

    needs_process: ClassVar[bool]
    """Whether it reads the QEMU process, which takes capabilities."""

    def __init__(
        self, guest: GuestMemory, request: ScanRequest, state: ScanState, replaced: GuestError | None = None
    ) -> None:
        """Find the guest's memory. `replaced` is the error of the reader that this one stands in for. Raises
        GuestError, with Reason.LAYOUT if another reader may find the memory.
        """

    def forecast(self) -> Forecast:
        """The scan that `read` would make. The guest and its process are not touched. Raises GuestError as `read`
        would.
        """

    def read(self, control: GuestControl, hashing: Hashing, observer: PageObserver, earlier: EarlierScan) -> Capture:
        """Read the guest, and note in the state what the next scan can use. A refusal by the drift budget before the
        scan begins leaves `earlier` in the state. Raises GuestError, and Interrupted.
        """
