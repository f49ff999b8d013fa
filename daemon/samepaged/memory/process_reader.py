"""Reading a guest's RAM out of its QEMU process, without changing what the host backs."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from samepaged.errors import GuestError, Reason
from samepaged.memory.backing import BackingFile
from samepaged.memory.hashing import Interrupted
from samepaged.memory.pagemap import PAGE, PRESENT, SWAPPED, Pagemap
from samepaged.sharing.digest import ABSENT
from samepaged.sharing.digest import SWAPPED as SWAPPED_PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from samepaged.memory.hashing import Hasher
    from samepaged.memory.layout import RamMapping

__all__ = ["ProcessReader", "Residence", "residence"]

# Pages a call hashes at most (64 MiB): between calls, a stop is noticed.
BATCH: Final = 16384
FILE_CHUNK: Final = 256


@dataclass(frozen=True, slots=True)
class Residence:
    """Where each page of one mapping is: three bool arrays of shape (pages,), of which at most one is true for a page.
    A page in none of them is absent.
    """

    in_process: NDArray[np.bool_]
    in_file: NDArray[np.bool_]
    swapped: NDArray[np.bool_]


def residence(
    mapping: RamMapping, entries: NDArray[np.uint64], held: NDArray[np.bool_] | None, resident: NDArray[np.bool_] | None
) -> Residence:
    """Where the pages of a mapping are, from its pagemap entries and, where it has a file, from which pages the file
    holds and which of these are in memory.

    A private page is in the process once it was written; before that, and always where the mapping is shared, it is
    the file's.
    """
    if held is None or resident is None:
        present = (entries & PRESENT) != 0
        return Residence(present, np.zeros_like(present), (entries & SWAPPED) != 0)
    if mapping.shared:
        own = out = np.zeros(len(entries), dtype=np.bool_)
    else:
        own, out = (entries & PRESENT) != 0, (entries & SWAPPED) != 0
    theirs = held & ~own & ~out
    return Residence(own, theirs & resident, out | (theirs & ~resident))


class ProcessReader:
    """Reads the RAM mappings of process `pid`. Keeps the files open that this takes; use it as a context manager.
    Raises GuestError.
    """

    def __init__(
        self,
        pid: int,
        mappings: Sequence[RamMapping],
        *,
        hasher: Hasher,
        seed: int,
        threads: int,
        stop: Callable[[], bool],
    ) -> None:
        self._pid = pid
        self._mappings = tuple(mappings)
        self._hasher = hasher
        self._seed = seed
        self._threads = threads
        self._stop = stop
        self.bytes_read = 0
        with ExitStack() as opened:
            self._pagemap = opened.enter_context(Pagemap(pid))
            self._files = {
                index: opened.enter_context(BackingFile(pid, mapping))
                for index, mapping in enumerate(self._mappings)
                if mapping.has_file
            }
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def pages(self) -> int:
        """The guest's memory in pages."""
        return sum(mapping.size for mapping in self._mappings) // PAGE

    def read(self) -> NDArray[np.uint64]:
        """Hash every page once: uint64 of shape (pages,), as in PageDigest."""
        digest = np.empty(self.pages, dtype=np.uint64)
        first = 0
        for index, mapping in enumerate(self._mappings):
            last = first + mapping.size // PAGE
            self._read_mapping(index, mapping, digest[first:last])
            first = last
        return digest

    def _residence(self, index: int, mapping: RamMapping) -> Residence:
        entries = self._pagemap.entries(mapping.start, mapping.size)
        file = self._files.get(index)
        if file is None:
            return residence(mapping, entries, None, None)
        return residence(mapping, entries, file.holds_data(), file.resident())

    def _read_mapping(self, index: int, mapping: RamMapping, out: NDArray[np.uint64]) -> None:
        where = self._residence(index, mapping)
        out.fill(ABSENT)
        out[where.swapped] = SWAPPED_PAGE
        self._read_process(mapping, np.flatnonzero(where.in_process), out)
        self._read_file(index, np.flatnonzero(where.in_file), out)
        if where.swapped.any():
            self._read_migrated(index, mapping, where, out)

    def _read_migrated(self, index: int, mapping: RamMapping, before: Residence, out: NDArray[np.uint64]) -> None:
        """A page on its way from one frame to another (compaction, NUMA balancing) has, for that moment, an entry like
        a swapped one (fs/proc/task_mmu.c, is_swap_pte): look once more at what seemed to be swapped.
        """
        now = self._residence(index, mapping)
        self._read_process(mapping, np.flatnonzero(before.swapped & now.in_process), out)
        self._read_file(index, np.flatnonzero(before.swapped & now.in_file), out)

    def _read_process(self, mapping: RamMapping, pages: NDArray[np.intp], out: NDArray[np.uint64]) -> None:
        """Hash the pages of these numbers into their places in `out`."""
        for start in range(0, len(pages), BATCH):
            batch = pages[start : start + BATCH]
            addresses = batch.astype(np.uint64) * np.uint64(PAGE) + np.uint64(mapping.start)
            hashes = np.empty(len(batch), dtype=np.uint64)
            try:
                self._hasher.read_process(
                    self._pid, addresses, hashes, PAGE, self._seed, threads=self._threads, stop=self._stop
                )
            except OSError as error:
                raise _read_error(self._pid, error) from error
            out[batch] = hashes
            self.bytes_read += len(batch) * PAGE

    def _read_file(self, index: int, pages: NDArray[np.intp], out: NDArray[np.uint64]) -> None:
        if not len(pages):
            return
        file = self._files[index]
        with mmap.mmap(-1, FILE_CHUNK * PAGE) as area:
            area.madvise(mmap.MADV_DONTDUMP)
            with memoryview(area) as buffer:
                # Runs of neighbouring pages, cut to the buffer's length.
                for run in np.split(pages, np.flatnonzero(np.diff(pages) != 1) + 1):
                    for start in range(0, len(run), FILE_CHUNK):
                        self._read_run(file, buffer, run[start : start + FILE_CHUNK], out)

    def _read_run(self, file: BackingFile, buffer: memoryview, run: NDArray[np.intp], out: NDArray[np.uint64]) -> None:
        if self._stop():
            raise Interrupted
        length = len(run) * PAGE
        try:
            file.read_into(buffer[:length], int(run[0]))
        except OSError as error:
            raise GuestError(Reason.READ, f"the file behind the guest's RAM: {error.strerror}") from error
        self._hasher.hash_buffer(buffer[:length], out[run[0] : run[0] + len(run)], PAGE, self._seed)
        self.bytes_read += length


def _read_error(pid: int, error: OSError) -> GuestError:
    match error.errno:
        case errno.ESRCH:
            return GuestError(Reason.GONE, f"process {pid} ended while its memory was read")
        case errno.EPERM | errno.EACCES:
            return GuestError(
                Reason.NO_PERMISSION,
                f"the memory of process {pid} may not be read; run as root or with CAP_SYS_PTRACE, "
                "or use `--reader dump`",
            )
        case _:
            return GuestError(
                Reason.READ, f"reading the memory of process {pid} failed: {os.strerror(error.errno or 0)}; try again"
            )
