"""The RAM of a guest in its QEMU process, read without changing the set of pages that the host backs.

Pages are numbered consecutively through all RAM mappings of the guest, in the order of the mappings.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from samepaged import ksm
from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.memory.backing_file import BackingFile
from samepaged.memory.hashing import Interrupted, hash_copied_pages
from samepaged.memory.locked_buffer import locked_buffer
from samepaged.memory.pagemap import EXCLUSIVE, PRESENT, Pagemap, Residency, residency
from samepaged.memory.process_vm import ProcessMemory, copy_process
from samepaged.os_errors import exhausted, no_resources
from samepaged.sharing.digest import ABSENT, SWAPPED
from samepaged.sharing.parallel import map_in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from samepaged.memory.hashing import Hashing
    from samepaged.memory.ram_location import RamMapping

__all__ = ["BLOCK_PAGES", "ProcessRam", "block_numbers"]

# Pages hashed into one array before the hashes are stored in the digest (2 MiB of hashes).
BATCH_PAGES: Final = 1 << 18
FILE_CHUNK_PAGES: Final = 256
# Pages that a thread copies between two calls of `stop`: 8 MiB.
COPY_PAGES: Final = 2048
# Pages for one read of pagemap entries if few are needed: one page of entries.
BLOCK_PAGES: Final = 512


class ProcessRam:
    """The RAM mappings of process `pid`: residency, hashes and copies of their pages. It keeps /proc/PID/pagemap and
    the files behind the RAM open; use it as a context manager. Raises GuestError.
    """

    def __init__(
        self,
        pid: int,
        mappings: Sequence[RamMapping],
        hashing: Hashing,
    ) -> None:
        self.pid = pid
        self.mappings = tuple(mappings)
        self._hashing = hashing
        self.bytes_read = 0
        sizes = [mapping.size // PAGE_SIZE for mapping in self.mappings]
        self._first = np.concatenate(([0], np.cumsum(sizes))).astype(np.intp)
        with ExitStack() as opened:
            self._pagemap = opened.enter_context(Pagemap(pid))
            # If KSM has merged pages, or may merge during the scan, copy in the way that keeps pages merged.
            merged = any(mapping.mergeable for mapping in self.mappings) and ksm.has_merged()
            self._memory = opened.enter_context(ProcessMemory(pid)) if merged else None
            self._files = {
                index: opened.enter_context(BackingFile(pid, mapping))
                for index, mapping in enumerate(self.mappings)
                if mapping.has_file
            }
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    @property
    def pages(self) -> int:
        """Size of the guest's memory in pages."""
        return int(self._first[-1])

    def entries(self, first: int = 0, last: int | None = None) -> NDArray[np.uint64]:
        """The pagemap entries of pages from `first` up to `last` (default: all): uint64 of shape (last - first,)."""
        pieces = self._pieces(first, self.pages if last is None else last)
        parts = [self._entries(index, piece) for index, piece in pieces]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def now_present(self, pages: NDArray[np.intp]) -> NDArray[np.intp]:
        """Those of these page numbers (ascending) that are present in the process now. Reads the pagemap entries of
        whole blocks (block_numbers).
        """
        found = [np.empty(0, dtype=np.intp)]
        for run in _runs(block_numbers(pages), BATCH_PAGES // BLOCK_PAGES):
            first, last = int(run[0]) * BLOCK_PAGES, min((int(run[-1]) + 1) * BLOCK_PAGES, self.pages)
            own = pages[np.searchsorted(pages, first) : np.searchsorted(pages, last)]
            found.append(own[(self.entries(first, last)[own - first] & PRESENT) != 0])
        return np.concatenate(found)

    def check_readable(self) -> None:
        """Raise GuestError if reading the process's memory is not permitted. The check does not read memory: the
        address is unmapped, and the kernel checks permission first (mm/process_vm_access.c).
        """
        try:
            copy_process(self.pid, np.zeros(1, dtype=np.uint64), memoryview(bytearray(PAGE_SIZE)))
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise _read_error(self.pid, error) from error

    def count_not_exclusive(self) -> int:
        """The number of present pages in private memory that are not exclusive to the process: pages merged by KSM, or
        mapped to the kernel's zero page, which does not take memory.
        """
        return sum(
            int(np.count_nonzero((self._entries(index, piece) & (PRESENT | EXCLUSIVE)) == PRESENT))
            for index, piece in self._pieces(0, self.pages)
            if not self.mappings[index].has_file
        )

    def look(self) -> Residency:
        """The current residency of all pages."""
        return self._look(0, self.pages)

    def count_backed(self) -> int:
        """The number of pages that a read would hash now."""
        where = self.look()
        return int(np.count_nonzero(where.in_process) + np.count_nonzero(where.in_file))

    def read(
        self,
        first: int = 0,
        last: int | None = None,
        out: NDArray[np.uint64] | None = None,
        where: Residency | None = None,
    ) -> NDArray[np.uint64]:
        """Hash pages from `first` up to `last` (default: all) once: uint64 of shape (last - first,), as in PageDigest;
        in `out` if it is given. `where` is their residency, if it was just read.
        """
        last = self.pages if last is None else last
        digest = np.empty(last - first, dtype=np.uint64) if out is None else out
        where = where or self._look(first, last)
        digest.fill(ABSENT)
        digest[where.swapped] = SWAPPED
        self._hash(where.in_process, where.in_file, first, digest)
        if where.swapped.any():
            # While a page moves from one frame to another (compaction, NUMA balancing), its entry looks like that of a
            # swapped page (fs/proc/task_mmu.c, is_swap_pte): read the entries of swapped pages once more.
            now = self._look(first, last)
            self._hash(where.swapped & now.in_process, where.swapped & now.in_file, first, digest)
        return digest

    def hash_pages(self, pages: NDArray[np.intp], out: NDArray[np.uint64], first: int = 0) -> None:
        """Hash the pages with these numbers (ascending, all of them present in the process) and store the hashes in
        `out`, which begins at page `first`.
        """
        for start in range(0, len(pages), BATCH_PAGES):
            batch = pages[start : start + BATCH_PAGES]
            hashes = np.empty(len(batch), dtype=np.uint64)
            try:
                self._hash_batch(batch, hashes)
            except OSError as error:
                raise _read_error(self.pid, error) from error
            out[batch - first] = hashes
            self.bytes_read += len(batch) * PAGE_SIZE

    def copy_pages(self, pages: NDArray[np.intp], out: memoryview) -> None:
        """Copy the pages with these numbers (ascending, all of them present in the process) consecutively to the front
        of `out`.
        """
        copy = partial(copy_process, self.pid) if self._memory is None else self._memory.copy
        addresses = self._addresses(pages)

        def piece(start: int) -> None:
            if self._hashing.stop():
                raise Interrupted
            copy(addresses[start : start + COPY_PAGES], out[start * PAGE_SIZE : (start + COPY_PAGES) * PAGE_SIZE])

        try:
            map_in_threads(piece, range(0, len(pages), COPY_PAGES), self._hashing.threads)
        except OSError as error:
            raise _read_error(self.pid, error) from error

    def copy_file_pages(self, pages: NDArray[np.intp], out: memoryview) -> None:
        """As `copy_pages`, for pages in the files behind the guest's RAM."""
        done = 0
        for index, run in self._file_runs(pages):
            self._read_file(index, int(run[0]), out[done * PAGE_SIZE : (done + len(run)) * PAGE_SIZE])
            done += len(run)

    def _hash_batch(self, pages: NDArray[np.intp], out: NDArray[np.uint64]) -> None:
        addresses = self._addresses(pages)
        memory, hashing = self._memory, self._hashing
        if hashing.subpages is not None:
            copy = partial(copy_process, self.pid) if memory is None else memory.copy
            hashing.subpages.read_process(copy, addresses, pages, out, hashing.stop)
        elif memory is not None:
            hash_copied_pages(
                memory.copy, hashing.hasher, addresses, out, PAGE_SIZE, hashing.seed, hashing.threads, hashing.stop
            )
        else:
            hashing.hasher.read_process(
                self.pid, addresses, out, PAGE_SIZE, hashing.seed, threads=hashing.threads, stop=hashing.stop
            )

    def _addresses(self, pages: NDArray[np.intp]) -> NDArray[np.uint64]:
        index = np.searchsorted(self._first, pages, side="right") - 1
        starts = np.array([mapping.start for mapping in self.mappings], dtype=np.uint64)
        return starts[index] + (pages - self._first[index]).astype(np.uint64) * np.uint64(PAGE_SIZE)

    def _pieces(self, first: int, last: int) -> Iterator[tuple[int, slice]]:
        """The mappings that contain pages from `first` up to `last`: index, and slice of the mapping's pages."""
        for index in range(len(self.mappings)):
            base, end = int(self._first[index]), int(self._first[index + 1])
            if first < end and last > base:
                yield index, slice(max(first - base, 0), min(last, end) - base)

    def _entries(self, index: int, piece: slice) -> NDArray[np.uint64]:
        start = self.mappings[index].start + piece.start * PAGE_SIZE
        return self._pagemap.entries(start, (piece.stop - piece.start) * PAGE_SIZE)

    def _look(self, first: int, last: int) -> Residency:
        parts = []
        for index, piece in self._pieces(first, last):
            mapping = self.mappings[index]
            entries = self._entries(index, piece)
            file = self._files.get(index)
            if file is None:
                parts.append(residency(entries, None, None, shared=False))
            else:
                held, resident = file.holds_data(piece), file.resident(piece)
                parts.append(residency(entries, held, resident, shared=mapping.shared))
        return Residency.join(parts)

    def _hash(
        self, in_process: NDArray[np.bool_], in_file: NDArray[np.bool_], first: int, digest: NDArray[np.uint64]
    ) -> None:
        """Hash the marked pages (bool of the digest's shape); the digest begins at page `first`."""
        self.hash_pages(np.flatnonzero(in_process) + first, digest, first)
        if in_file.any():
            self._hash_files(np.flatnonzero(in_file) + first, digest, first)

    def _hash_files(self, pages: NDArray[np.intp], out: NDArray[np.uint64], first: int) -> None:
        buffer = locked_buffer(FILE_CHUNK_PAGES * PAGE_SIZE)
        for index, run in self._file_runs(pages):
            at = int(run[0]) - first
            window = buffer[: len(run) * PAGE_SIZE]
            self._read_file(index, int(run[0]), window)
            self._hashing.hasher.hash_buffer(window, out[at : at + len(run)], PAGE_SIZE, self._hashing.seed)
            self.bytes_read += len(window)
            if self._hashing.subpages is not None:
                self._hashing.subpages.hash(window, run)

    def _file_runs(self, pages: NDArray[np.intp]) -> Iterator[tuple[int, NDArray[np.intp]]]:
        """Runs of pages to read from files in one call each, with the index of the file's mapping."""
        for index in self._files:
            base, end = self._first[index], self._first[index + 1]
            own = pages[np.searchsorted(pages, base) : np.searchsorted(pages, end)]
            for run in _runs(own, FILE_CHUNK_PAGES):
                yield index, run

    def _read_file(self, index: int, page: int, buffer: memoryview) -> None:
        if self._hashing.stop():
            raise Interrupted
        try:
            self._files[index].read_into(buffer, page - int(self._first[index]))
        except OSError as error:
            raise GuestError(
                Reason.READ, f"reading the file behind the guest's RAM failed: {error.strerror}", "try again"
            ) from error


def block_numbers(pages: NDArray[np.intp]) -> NDArray[np.intp]:
    """The numbers, ascending, of the blocks of BLOCK_PAGES pages that contain these pages."""
    return np.unique(pages // BLOCK_PAGES)


def _runs(numbers: NDArray[np.intp], most: int) -> Iterator[NDArray[np.intp]]:
    """Split ascending numbers into runs of consecutive numbers, at most `most` in each."""
    for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
        for start in range(0, len(run), most):
            yield run[start : start + most]


def _read_error(pid: int, error: OSError) -> GuestError:
    if exhausted(error):
        return no_resources(f"the memory of process {pid}", error)
    match error.errno:
        case errno.ESRCH:
            return GuestError(Reason.GONE, f"process {pid} ended while its memory was read")
        case errno.EPERM | errno.EACCES:
            return GuestError(
                Reason.NO_PERMISSION,
                f"reading the memory of process {pid} is not permitted",
                "run as root or with CAP_SYS_PTRACE, or use `--reader dump`",
            )
        case _:
            return GuestError(
                Reason.READ, f"reading the memory of process {pid} failed: {os.strerror(error.errno or 0)}", "try again"
            )
