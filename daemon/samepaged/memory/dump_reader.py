"""The reader `dump`: a guest's RAM from libvirt's memory-only dump, hashed from a FIFO without a file on disk.

This is the method of Barker et al. (section 3.2). It does not need access to the QEMU process. But QEMU touches every
page to write it: pages that were never backed are mapped, and holes of shared memory are allocated.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import select
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.drift.budget import budget_error
from samepaged.errors import GuestError, Reason
from samepaged.memory.hashing import Interrupted
from samepaged.memory.images.elf_stream import ElfStream, Segment, ram_segments
from samepaged.memory.locked_buffer import locked_buffer
from samepaged.memory.modes import FallbackReason
from samepaged.memory.pagemap import PRESENT, Pagemap
from samepaged.memory.pagemap import SWAPPED as SWAPPED_ENTRY
from samepaged.memory.ram_location import locate_ram, read_smaps
from samepaged.memory.reader import Capture, Forecast
from samepaged.os_errors import exhausted, no_resources
from samepaged.sharing.digest import ABSENT, SWAPPED, ZERO, PageDigest
from samepaged.threads import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from samepaged.memory.hashing import Hashing
    from samepaged.memory.observer import PageObserver
    from samepaged.memory.ram_location import RamMapping
    from samepaged.memory.reader import GuestControl, GuestMemory, ScanRequest
    from samepaged.memory.scan_state import EarlierScan, ScanState

__all__ = ["DumpReader", "DumpStream"]

PIPE_BYTES: Final = 1 << 20
CHUNK_PAGES: Final = 256
POLL_SECONDS: Final = 0.02
# Time for the dump call to return after its FIFO is closed; the guest is suspended meanwhile.
END_SECONDS: Final = 0.3


def _end(writer: Worker, fifo: Path, seconds: float = math.inf) -> bool:
    """Wait up to `seconds` for the writer to end; return whether it did. The FIFO's reader is closed, so the writer's
    next write fails, and its call with it. A writer that still waits to open the FIFO gets a reader for a moment.
    """
    deadline = time.monotonic() + seconds
    while writer.is_alive() and time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # EMFILE: another thread took the free descriptor; try again
            os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
        writer.join(POLL_SECONDS)
    return not writer.is_alive()


def _end_later(writer: Worker, fifo: Path) -> None:
    _end(writer, fifo)
    _remove(fifo)


def _fifo(directory: Path) -> tuple[Path, int]:
    """Create a FIFO in a new directory below `directory`; return it and a descriptor for reading. The descriptor is
    opened without waiting for the writer, so the writer never waits for a reader. Raises GuestError.
    """
    with contextlib.ExitStack() as made:
        try:
            private = Path(tempfile.mkdtemp(prefix=f"dump-{os.getpid()}-", dir=directory))
            fifo = private / "memory"
            made.callback(_remove, fifo)
            os.mkfifo(fifo, 0o600)
            descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if exhausted(error):
                raise no_resources(f"a FIFO in {directory}", error) from error
            raise GuestError(
                Reason.DUMP,
                f"cannot create a FIFO for the memory dump in {directory} ({error.strerror})",
                "free space there, or set runtime_directory",
            ) from error
        made.pop_all()
        return fifo, descriptor


def _remove(fifo: Path) -> None:
    """Remove a FIFO and its directory without opening a file. The next samepaged process removes leftovers."""
    for remove in (fifo.unlink, fifo.parent.rmdir):
        with contextlib.suppress(OSError):
            remove()


class DumpStream:
    """Reads a guest through `dump(path)`, which writes the dump to the FIFO at `path` and returns at its end. The FIFO
    is in a separate directory below `directory`. Raises GuestError.
    """

    def __init__(
        self,
        dump: Callable[[Path], None],
        directory: Path,
        blocks: Sequence[int],
        hashing: Hashing,
    ) -> None:
        self._dump = dump
        self._directory = directory
        self._total = sum(blocks)
        self._hashing = hashing
        self._failure: BaseException | None = None
        self.bytes_read = 0

    def read(self, absent: NDArray[np.bool_] | None = None) -> NDArray[np.uint64]:
        """Hash every page once: uint64 of shape (pages,), as in PageDigest.

        A dump does not distinguish absent pages from zero pages. `absent` (bool, of the same shape, from a pagemap
        read just before) marks the absent ones; it is ignored unless all marked pages are zeros. Pages missing from
        the dump count as swapped: not read, content unknown.
        """
        fifo, descriptor = _fifo(self._directory)
        writer = Worker(partial(self._write, fifo))
        try:
            try:
                # Refused if the user's pipes exceed pipe-user-pages-soft (pipe(7)); a small pipe is slower.
                with contextlib.suppress(PermissionError):
                    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
                writer.start(partial(GuestError, Reason.NO_RESOURCES))
                pages = self._hash(ElfStream(lambda buffer: self._readinto(descriptor, buffer, writer)))
                self._drain(descriptor, writer)
            finally:
                os.close(descriptor)
        except GuestError as error:
            if self._failure is None:
                raise
            # A dump that ends early is a symptom; libvirt's error has the cause.
            raise self._failure from error
        finally:
            if _end(writer, fifo, END_SECONDS):
                _remove(fifo)
            else:
                # QEMU hangs during the dump: the guest must not stay suspended until that ends. If a thread cannot be
                # started, the guard or `samepaged recover` ends the dump.
                with contextlib.suppress(GuestError):
                    Worker(partial(_end_later, writer, fifo)).start(partial(GuestError, Reason.NO_RESOURCES))
        if self._failure is not None:
            raise self._failure
        if absent is not None and bool((pages[absent] == ZERO).all()):
            pages[absent] = ABSENT
        return pages

    def _write(self, fifo: Path) -> None:
        try:
            self._dump(fifo)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self._failure = error

    def _readinto(self, descriptor: int, buffer: memoryview, writer: Worker) -> int:
        poll = select.poll()  # select(2) does not support descriptors above 1023
        poll.register(descriptor, select.POLLIN)
        while True:
            ended = not writer.is_alive()
            if self._hashing.stop():
                raise Interrupted
            if poll.poll(0 if ended else POLL_SECONDS * 1000):
                try:
                    count = os.readv(descriptor, [buffer])
                except BlockingIOError:
                    continue
                # Before the writer opens its end, a read returns 0 bytes, which is not the end of the dump.
                if count or ended:
                    return count
                time.sleep(0.001)
            elif ended:
                return 0

    def _drain(self, descriptor: int, writer: Worker) -> None:
        rest = locked_buffer(PIPE_BYTES)
        while self._readinto(descriptor, rest, writer):
            pass

    def _hash(self, stream: ElfStream) -> NDArray[np.uint64]:
        pages = np.full(self._total // PAGE_SIZE, SWAPPED, dtype=np.uint64)
        placed = sorted(ram_segments(stream.segments, self._total), key=lambda item: item[0].offset)
        buffer = locked_buffer(CHUNK_PAGES * PAGE_SIZE)
        for segment, offset in placed:
            stream.skip_to(segment.offset)
            self._hash_segment(stream, segment, offset // PAGE_SIZE, pages, buffer)
        return pages

    def _hash_segment(
        self, stream: ElfStream, segment: Segment, page: int, out: NDArray[np.uint64], buffer: memoryview
    ) -> None:
        count = segment.size // PAGE_SIZE
        for first in range(0, count, CHUNK_PAGES):
            pages = min(CHUNK_PAGES, count - first)
            window = buffer[: pages * PAGE_SIZE]
            stream.fill(window)
            at = page + first
            self._hashing.hasher.hash_buffer(window, out[at : at + pages], PAGE_SIZE, self._hashing.seed)
            if self._hashing.subpages is not None:
                self._hashing.subpages.hash(window, np.arange(at, at + pages))
            self.bytes_read += len(window)


class DumpReader:
    """A `Reader` of libvirt's memory-only dump. The guest is suspended while all of its memory is written."""

    name: ClassVar[str] = "dump"
    label: ClassVar[str] = "was dumped by libvirt"
    modes: ClassVar[frozenset[str]] = frozenset({"snapshot"})
    needs_process: ClassVar[bool] = False

    def __init__(
        self, guest: GuestMemory, request: ScanRequest, state: ScanState, replaced: GuestError | None = None
    ) -> None:
        self._guest = guest
        self._request = request
        self._state = state
        self._fallback = None if replaced is None else FallbackReason("layout", str(replaced))
        if replaced is None:
            self._check_mode()
        else:
            self._check_stand_in(replaced)

    def forecast(self) -> Forecast:
        """As in Reader."""
        self._check_budget()
        seconds = self._seconds()
        pause = 0.0 if self._guest.paused else seconds
        return Forecast("snapshot", self.name, pause, seconds, None, self._fallback, pause)

    def read(self, control: GuestControl, hashing: Hashing, observer: PageObserver, earlier: EarlierScan) -> Capture:
        """As in Reader."""
        with self._state.restored_if_refused(earlier):
            self._check_budget()
        observer.decline("its memory was read from a dump")
        stream = DumpStream(control.dump, control.directory, self._guest.blocks, hashing)
        mappings = _private_mappings(self._guest.pid, self._guest.blocks)  # found while the guest still runs
        with control.pause(self._seconds(), dumping=True):
            absent = _absent_pages(self._guest.pid, mappings)
            began = time.monotonic()
            pages = stream.read(absent)
            self._state.throughput.learn_dump(stream.bytes_read, time.monotonic() - began)
        return Capture(PageDigest(pages, PAGE_SIZE), "snapshot", self.name, stream.bytes_read, self._fallback)

    def _seconds(self) -> float:
        """Predicted pause in seconds. The dump has all of the memory, whether the host backs it or not."""
        throughput = self._state.throughput
        return throughput.overhead + sum(self._guest.blocks) / throughput.dump_rate

    def _check_mode(self) -> None:
        mode = self._request.config.mode
        if mode in {"sliced", "live"} and not self._guest.paused:
            raise GuestError(
                Reason.DUMP,
                "a dump suspends the guest until all of its memory is read",
                f"use `--reader process` for mode {mode}",
            )

    def _check_budget(self) -> None:
        """Raise GuestError if a dump exceeds the drift budget."""
        seconds = self._seconds()
        if not self._guest.paused and seconds > self._request.budget.remaining_seconds():
            raise budget_error(self._request.budget, seconds)

    def _check_stand_in(self, replaced: GuestError) -> None:
        """Raise the error of the replaced reader if the configuration does not allow the pause of a dump."""
        config = self._request.config
        if self._guest.paused or config.mode == "snapshot":
            return
        seconds = self._seconds()
        unasked = config.mode in {"sliced", "live"}
        if unasked or seconds > config.max_pause:
            remedy = "use `--mode snapshot --reader dump`" if unasked else "use `--reader dump`"
            raise GuestError(
                Reason.LAYOUT,
                replaced.detail,
                f"{remedy} to dump the guest anyway, which would suspend it for about {seconds:.1f} s",
            ) from replaced


def _private_mappings(pid: int, blocks: Sequence[int]) -> tuple[RamMapping, ...]:
    """The guest's RAM mappings, if they can be read and the pagemap alone shows which pages are absent; else empty.
    Raises GuestError if a resource is exhausted, because absent pages would then differ between scans.
    """
    try:
        mappings = locate_ram(read_smaps(pid), blocks)
    except GuestError as error:
        if error.reason is Reason.NO_RESOURCES:
            raise
        return ()
    return () if any(mapping.has_file for mapping in mappings) else mappings


def _absent_pages(pid: int, mappings: Sequence[RamMapping]) -> NDArray[np.bool_] | None:
    """The absent pages: bool; None if the pagemap cannot be read, because the dump reader works without access to the
    process. Raises GuestError as `_private_mappings` does.
    """
    if not mappings:
        return None
    try:
        with Pagemap(pid) as pagemap:
            entries = np.concatenate([pagemap.entries(mapping.start, mapping.size) for mapping in mappings])
    except GuestError as error:
        if error.reason is Reason.NO_RESOURCES:
            raise
        return None
    absent: NDArray[np.bool_] = (entries & (PRESENT | SWAPPED_ENTRY)) == 0
    return absent
