"""One scan of one guest's memory: a reader and a consistency mode, chosen and put together."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from samepaged import ksm
from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.memory import ram_location
from samepaged.memory.dump_reader import DumpStream, absent_pages, private_mappings
from samepaged.memory.forecast import (
    TOO_BUSY,
    Policy,
    check_dump,
    check_dump_budget,
    check_dump_mode,
    dump_seconds,
    plan,
    snapshot_seconds,
    within,
)
from samepaged.memory.modes import FallbackReason, Workload, fallback_plan
from samepaged.memory.observer import NullObserver, PageAccess
from samepaged.memory.precopy import COPY_TOO_LONG, DoesNotConverge, Precopy, Verification
from samepaged.memory.process_ram import ProcessRam
from samepaged.memory.ram_location import locate_ram, merge_obstacle
from samepaged.memory.reader import PauseMeter
from samepaged.memory.scan_state import ScanState, SoftDirtyEpoch
from samepaged.memory.sliced import read_sliced
from samepaged.memory.softdirty import LockHeld
from samepaged.memory.subpages import SubpageDigests
from samepaged.memory.throughput import calibrate
from samepaged.sharing.digest import PageDigest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from samepaged.memory.hashing import Hasher
    from samepaged.memory.modes import Plan
    from samepaged.memory.observer import PageObserver
    from samepaged.memory.reader import Pause
    from samepaged.memory.throughput import ThroughputModel

__all__ = ["Capture", "GuestMemory", "Hashing", "Policy", "capture"]

DUMPED: Final = "its memory was read by a dump"
CLAIMED: Final = FallbackReason("claimed", "another samepaged is reading it by its soft-dirty bits")


@dataclass(frozen=True, slots=True)
class GuestMemory:
    """A guest's memory as this package sees it: the pid of its QEMU, its RAM blocks in bytes, whether it stands still
    already and whether a host's device writes into it, how to hold it suspended, and how to have it dumped into a path
    (a FIFO in `directory`).
    """

    pid: int
    blocks: tuple[int, ...]
    paused: bool
    vfio: bool
    pause: Pause
    dump: Callable[[Path], None]
    directory: Path


@dataclass(frozen=True, slots=True)
class Hashing:
    """How pages are hashed, on how many threads, and when to stop reading."""

    hasher: Hasher
    seed: int = field(repr=False)  # whoever knows it can tell from a hash what a page holds
    threads: int
    stop: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Capture:
    """What a scan found and how: the mode and the reader used, bytes read, and why it was not what was asked for.
    `finer` are the digests in the sizes below a page's. `merge_obstacle` is why KSM cannot merge the memory, as far as
    its mappings tell; `not_exclusive` counts pages as ProcessRam.count_not_exclusive does.
    """

    digest: PageDigest
    mode: str
    reader: str
    bytes_read: int
    fallback: FallbackReason | None = None
    finer: tuple[PageDigest, ...] = ()
    merge_obstacle: str | None = None
    not_exclusive: int = 0


def capture(
    source: GuestMemory, hashing: Hashing, policy: Policy, kept: ScanState, witness: PageObserver | None = None
) -> Capture:
    """Scan a guest, and bring up to date what is kept of it; with the witness, where that is possible. Raises
    GuestError; then nothing is kept.
    """
    witness = witness or NullObserver()
    known, kept.digest = kept.digest, None
    epoch, kept.epoch = kept.epoch, None
    finer = None
    if policy.finer_sizes:
        known = epoch = None  # hashes of the parts are not kept
        finer = SubpageDigests(sum(source.blocks) // PAGE_SIZE, policy.finer_sizes, hashing.hasher, hashing.seed)
    if policy.reader == "dump":
        check_dump_mode(policy, paused=source.paused)
        with kept.restored_if_refused(known, epoch):
            check_dump_budget(source.blocks, policy, kept.pace, paused=source.paused)
        witness.decline(DUMPED)
        found = _by_dump(source, hashing, finer, kept.pace, None)
    else:
        try:
            mappings = locate_ram(ram_location.read_smaps(source.pid), source.blocks)
        except GuestError as error:
            if policy.reader != "auto" or error.reason is not Reason.LAYOUT:
                raise
            check_dump(source.blocks, policy, kept.pace, error, paused=source.paused)
            with kept.restored_if_refused(known, epoch):
                check_dump_budget(source.blocks, policy, kept.pace, paused=source.paused)
            witness.decline(DUMPED)
            found = _by_dump(source, hashing, finer, kept.pace, FallbackReason("layout", str(error)))
        else:
            with ProcessRam(
                source.pid,
                mappings,
                hasher=hashing.hasher,
                seed=hashing.seed,
                threads=hashing.threads,
                stop=hashing.stop,
                finer=finer,
            ) as reader:
                found = _Scan(source, hashing, policy, kept, reader, witness).run(known, epoch)
                not_exclusive = reader.count_not_exclusive()
            found = replace(found, merge_obstacle=merge_obstacle(mappings), not_exclusive=not_exclusive)
    kept.digest = found.digest.pages
    kept.scans += 1
    if finer is None:
        return found
    finer.settle(found.digest.pages)
    return replace(found, finer=tuple(PageDigest(parts, size) for size, parts in finer.parts.items()))


@dataclass(slots=True)
class _Scan:
    """One scan by the process reader."""

    source: GuestMemory
    hashing: Hashing
    policy: Policy
    kept: ScanState
    reader: ProcessRam
    witness: PageObserver

    def run(self, known: NDArray[np.uint64] | None, epoch: SoftDirtyEpoch | None) -> Capture:
        with self.kept.restored_if_refused(known, epoch):
            chosen = self._plan(first=known is None or epoch is None)
        meter = PauseMeter(self.source.pause)
        self.source = replace(self.source, pause=meter)
        try:
            captured = self._run(chosen, known, epoch)
        except GuestError as error:
            if error.reason is Reason.DRIFT_BUDGET:  # it took longer than predicted, and would have taken longer still
                self.kept.pace.learn_total(chosen.total, 2 * meter.seconds)
            raise
        if captured.mode == chosen.mode:
            self.kept.pace.learn_total(chosen.total, meter.seconds)
        return captured

    def _plan(self, *, first: bool) -> Plan:
        """The mode. If a full drift budget has no room for it, the prediction may be at fault: the guest's speed is
        measured, and the mode chosen anew.
        """
        source, pace, budget = self.source, self.kept.pace, self.policy.budget
        try:
            return plan(self.reader, self.policy, self.kept, paused=source.paused, vfio=source.vfio, first=first)
        except GuestError as error:
            if error.reason is not Reason.DRIFT_BUDGET:
                raise
            pace.reconsider_total()
            if pace.measured and budget.remaining_seconds() < budget.limit:
                raise
            hashing = self.hashing
            with ProcessRam(
                source.pid,
                self.reader.mappings,
                hasher=hashing.hasher,
                seed=hashing.seed,
                threads=hashing.threads,
                stop=hashing.stop,
            ) as reader:
                calibrate(reader, pace)
            return plan(self.reader, self.policy, self.kept, paused=source.paused, vfio=source.vfio, first=first)

    def _run(self, chosen: Plan, known: NDArray[np.uint64] | None, epoch: SoftDirtyEpoch | None) -> Capture:
        pages: NDArray[np.uint64] | None = None
        if chosen.mode in {"snapshot", "precopy"}:
            self.witness.prepare(PageAccess(self.reader))
        if chosen.mode == "precopy":
            try:
                pages = self._precopy(known, epoch)
            except (DoesNotConverge, LockHeld) as error:
                obstacle = CLAIMED if isinstance(error, LockHeld) else TOO_BUSY
                seconds = snapshot_seconds(self.reader, self.kept.pace)
                chosen = fallback_plan(seconds, self.policy.max_pause, obstacle)
                work = Workload(self.reader.pages, self.reader.count_backed(), first=True)
                chosen = within(chosen, work, self.policy, self.kept.pace, obstacle=obstacle)
        if pages is None:
            if chosen.mode == "sliced" and self.policy.one_instant:
                raise self._too_long()
            pages = self._read(chosen.mode)
        return Capture(PageDigest(pages, PAGE_SIZE), chosen.mode, "process", self.reader.bytes_read, chosen.fallback)

    def _too_long(self) -> GuestError:
        seconds = snapshot_seconds(self.reader, self.kept.pace)
        return GuestError(
            Reason.TOO_LONG,
            f"reading it at one instant may take {seconds:.1f} s, and it may be suspended for "
            f"{self.policy.max_pause:g} s (scan.max_pause); allow that with `--mode snapshot`",
        )

    def _read(self, mode: str) -> NDArray[np.uint64]:
        if mode in {"sliced", "live"}:
            self.witness.decline(f"its memory was read in mode {mode}, at more than one instant")
        if mode == "sliced":
            return read_sliced(
                self.reader,
                self.source.pause,
                max_pause=self.policy.max_pause,
                max_duty=self.policy.max_duty,
                stop=self.hashing.stop,
                budget=self.policy.budget,
                overhead=self.kept.pace.overhead,
            )
        if mode == "live":
            return self.reader.read()
        return self._snapshot()

    def _snapshot(self) -> NDArray[np.uint64]:
        reader, pace = self.reader, self.kept.pace
        before = reader.bytes_read
        alone = snapshot_seconds(reader, pace)
        # Only where a snapshot was asked for may it be longer than max_pause: else it was taken for being shorter.
        asked = self.policy.mode == "snapshot" and not self.source.paused
        copying = pace.copying_seconds(self.witness.expected(None))
        bounds = (self.policy.max_pause, self.policy.budget.remaining_seconds())
        if not self.source.paused and any(alone <= bound < alone + copying for bound in bounds):
            if self.policy.one_instant:
                raise self._too_long()
            self.witness.decline(COPY_TOO_LONG)
            pace.reconsider_copying()
            copying = 0.0
        expected = alone + copying
        with self.source.pause(expected if asked else min(expected, self.policy.max_pause)) as held:
            began = time.monotonic()
            where = reader.look()
            looked = time.monotonic()
            copies = PageAccess(reader, where)
            with self.witness.held(copies, None):
                copied = time.monotonic()
                pages = reader.read(where=where)
                read = time.monotonic()
            ended = time.monotonic()
        if not self.source.paused:
            pace.learn_overhead(held.seconds - (ended - began))
        pace.learn((reader.bytes_read - before) // PAGE_SIZE, read - copied + looked - began)
        pace.learn_copying(copies.copied, copied - looked + ended - read)
        return pages

    def _precopy(self, known: NDArray[np.uint64] | None, epoch: SoftDirtyEpoch | None) -> NDArray[np.uint64]:
        reader = self.reader
        lasts = epoch is not None and epoch.lasts(reader.pid, reader.mappings)
        if epoch is None or not lasts or known is None or len(known) != reader.pages:
            if epoch is not None:
                epoch.end()
            known, epoch = None, SoftDirtyEpoch.begin(reader.pid, reader.mappings)
        try:
            pages = self._read_what_changed(known)
        except BaseException:
            epoch.end()
            raise
        # As long as KSM is held still or idle, the epoch lasts; what KSM does from here on ends it.
        self.kept.epoch = epoch
        return pages

    def _read_what_changed(self, known: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
        reader = self.reader
        mergeable = any(mapping.mergeable for mapping in reader.mappings)
        with ExitStack() as stack:
            if mergeable and self.policy.still_ksm:
                stack.enter_context(ksm.paused(self.source.directory))
            idle = ksm.activity()
            scan = Precopy(
                reader=reader,
                pause=self.source.pause,
                pace=self.kept.pace,
                budget=self.policy.max_pause,
                merging=lambda: mergeable and (ksm.is_running() or ksm.activity() != idle),
                verification=self._verification(),
                witness=self.witness,
            )
            try:
                return scan.run(None if known is None else known.copy())
            except GuestError as error:
                self.kept.distrusted |= error.reason is Reason.VERIFICATION
                raise

    def _verification(self) -> Verification | None:
        if not self.policy.verify_pages:
            return None
        return Verification(self.policy.verify_pages, np.random.default_rng())


def _by_dump(
    source: GuestMemory,
    hashing: Hashing,
    finer: SubpageDigests | None,
    pace: ThroughputModel,
    fallback: FallbackReason | None,
) -> Capture:
    reader = DumpStream(
        source.dump,
        source.directory,
        source.blocks,
        hasher=hashing.hasher,
        seed=hashing.seed,
        stop=hashing.stop,
        finer=finer,
    )
    mappings = private_mappings(source.pid, source.blocks)  # found before the guest is suspended, not while it is
    with source.pause(dump_seconds(source.blocks, pace), dumping=True):
        absent = absent_pages(source.pid, mappings)
        began = time.monotonic()
        pages = reader.read(absent)
        pace.learn_dump(reader.bytes_read, time.monotonic() - began)
    return Capture(PageDigest(pages, PAGE_SIZE), "snapshot", "dump", reader.bytes_read, fallback)
