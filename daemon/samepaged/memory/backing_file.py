"""The file behind a guest's RAM (memfd, tmpfs, hugetlbfs, a disk), read without allocating pages in it.

Access to a hole of a shmem or hugetlbfs file through a mapping allocates the page. read(2) of a hole does not, and
SEEK_DATA finds the holes (lseek(2)).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.os_errors import exhausted, no_resources, process_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from samepaged.memory.ram_location import RamMapping

__all__ = ["BackingFile"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
PROT_NONE: Final = 0
MAP_FAILED: Final = ctypes.c_void_p(-1).value


RIGHTS: Final = "run as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or use `--reader dump`"


def _descriptor_paths(pid: int) -> Iterator[Path]:
    """The open files of QEMU, the only access to a memfd or an unlinked file. Raises GuestError."""
    directory = Path(f"/proc/{pid}/fd")
    try:
        paths = list(directory.iterdir())
    except OSError as error:
        raise process_error(error, pid, str(directory), RIGHTS) from error
    yield from paths


def _mincore(descriptor: int, offset: int, length: int, resident: NDArray[np.uint8]) -> None:
    """Store in `resident` which pages of a file are in memory (mincore(2)), through a mapping without read access."""
    # Python's mmap does not expose the address of such a mapping.
    address = _libc.mmap(None, length, PROT_NONE, mmap.MAP_SHARED, descriptor, offset)
    if address == MAP_FAILED:
        raise _failed("mmap")
    try:
        _libc.madvise(address, length, mmap.MADV_DONTDUMP)  # a debugger could dump it despite PROT_NONE
        if _libc.mincore(address, length, resident.ctypes.data):
            raise _failed("mincore")
    finally:
        _libc.munmap(address, length)


def _failed(call: str) -> GuestError:
    why = os.strerror(ctypes.get_errno())
    error = OSError(ctypes.get_errno(), why)
    if exhausted(error):
        return no_resources("a mapping of the file behind the guest's RAM", error, "made")
    return GuestError(Reason.READ, f"{call} of the file behind the guest's RAM failed: {why}", "try again")


def _same_file(path: Path, mapping: RamMapping) -> bool:
    """Compare the inode number, and the device or the path: btrfs and overlayfs report different device numbers."""
    try:
        status = path.stat()
        target = str(path.readlink()) if path.is_symlink() else mapping.path
    except OSError:
        return False
    device = (os.major(status.st_dev), os.minor(status.st_dev))
    return status.st_ino == mapping.inode and (device == mapping.device or target == mapping.path)


class BackingFile:
    """The file of a RAM mapping, open for reading. Raises GuestError."""

    def __init__(self, pid: int, mapping: RamMapping) -> None:
        self._mapping = mapping
        self._descriptor = self._open(pid)

    def _open(self, pid: int) -> int:
        named = Path(f"/proc/{pid}/root") / self._mapping.path.removesuffix(" (deleted)").lstrip("/")
        for path in (named, *_descriptor_paths(pid)):
            if _same_file(path, self._mapping):
                try:
                    return os.open(path, os.O_RDONLY)
                except OSError as error:
                    subject = f"{self._mapping.path!r}, the file behind the guest's RAM,"
                    raise process_error(error, pid, subject, RIGHTS) from error
        raise GuestError(
            Reason.NO_PERMISSION,
            f"cannot find {self._mapping.path!r}, the file behind the guest's RAM, among the files of process {pid}",
            "run as root or with CAP_SYS_PTRACE, or use `--reader dump`",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def holds_data(self, pages: slice) -> NDArray[np.bool_]:
        """The mapping's pages from start to stop with data in the file: bool. Holes read as zeros."""
        held = np.zeros(pages.stop - pages.start, dtype=np.bool_)
        begin = self._mapping.offset + pages.start * PAGE_SIZE
        end = min(begin + len(held) * PAGE_SIZE, os.fstat(self._descriptor).st_size)
        position = begin
        while position < end:
            try:
                start = os.lseek(self._descriptor, position, os.SEEK_DATA)
                position = os.lseek(self._descriptor, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole up to the end
                    break
                if error.errno != errno.EINVAL:
                    raise GuestError(
                        Reason.READ,
                        f"cannot find the holes of {self._mapping.path!r}, the file behind the guest's RAM "
                        f"({error.strerror})",
                        "try again",
                    ) from error
                start, position = position, end  # the file system does not support it: treat all as data
            first = max(start - begin, 0) // PAGE_SIZE
            last = -(-(min(position, end) - begin) // PAGE_SIZE)
            held[first:last] = True
        return held

    def resident(self, pages: slice) -> NDArray[np.bool_]:
        """The mapping's pages from start to stop that are in memory, not in swap or on a disk: bool. All pages if the
        kernel does not report this to the user (since 5.2 only to the file's owner and users with write access).
        """
        mapping = self._mapping
        count = pages.stop - pages.start
        if mapping.hugetlb:  # never swapped
            return np.ones(count, dtype=np.bool_)
        begin = mapping.offset + pages.start * PAGE_SIZE
        length = min(count * PAGE_SIZE, os.fstat(self._descriptor).st_size - begin)
        resident = np.zeros(count, dtype=np.uint8)
        if length > 0:
            _mincore(self._descriptor, begin, length, resident)
        return (resident & 1).astype(np.bool_)

    def read_into(self, buffer: memoryview, page: int) -> None:
        """Fill `buffer` with the mapping's pages from page number `page` on; with zeros past the end of the file."""
        filled = 0
        position = self._mapping.offset + page * PAGE_SIZE
        while filled < len(buffer):
            count = os.preadv(self._descriptor, [buffer[filled:]], position + filled)
            if count == 0:
                buffer[filled:] = bytes(len(buffer) - filled)
                return
            filled += count
