"""Copying pages from a process, in two ways.

process_vm_readv(2) is the faster one. It pins the pages for a moment, and the kernel unshares a shared page before it
is pinned (gup_must_unshare in include/linux/mm.h, since Linux 5.19). Such a read undoes merging by KSM, and the host
needs more memory again. Reading /proc/PID/mem does not pin pages.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.os_errors import process_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ProcessMemory", "copy_process"]

MAX_ADDRESS: Final = 2**64 - 1
# Each page may be a separate range, and a call accepts at most 1024 ranges (IOV_MAX).
CALL_PAGES: Final = 1024


class _Range(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = [
    ctypes.c_int,
    ctypes.POINTER(_Range),
    ctypes.c_ulong,
    ctypes.c_void_p,
    ctypes.c_ulong,
    ctypes.c_ulong,
]


def copy_process(pid: int, addresses: NDArray[np.uint64], scratch: memoryview) -> None:
    """Copy the pages at `addresses` of a process consecutively to the front of `scratch`, which must have room for
    them. Raises OSError as Hasher.read_process does.
    """
    _check(addresses)
    anchor = ctypes.c_char.from_buffer(scratch)
    try:
        base = ctypes.addressof(anchor)
        done = 0
        while done < len(addresses):
            ranges = _ranges(addresses[done : done + CALL_PAGES])
            local = _Range(base + done * PAGE_SIZE, int(ranges[:, 1].sum()))
            got = _libc.process_vm_readv(pid, ctypes.byref(local), 1, ranges.ctypes.data, len(ranges), 0)
            if got < PAGE_SIZE:
                why = ctypes.get_errno() if got < 0 else errno.EFAULT
                raise OSError(why, f"cannot read process {pid} at {int(addresses[done]):#x}: {os.strerror(why)}")
            # A short read ends at a page that cannot be read: the next call starts there, and returns the error.
            done += got // PAGE_SIZE
    finally:
        del anchor  # else the scratch cannot be closed


def _ranges(addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Start address and length in bytes of each run of adjacent pages, as rows with the layout of struct iovec."""
    firsts = np.flatnonzero(np.diff(addresses, prepend=addresses[:1]) != PAGE_SIZE)
    ranges = np.empty((len(firsts), 2), dtype=np.uint64)
    ranges[:, 0] = addresses[firsts]
    ranges[:, 1] = np.diff(firsts, append=len(addresses)) * PAGE_SIZE
    return ranges


class ProcessMemory:
    """/proc/PID/mem of one process, kept open (proc_pid_mem(5)). Raises GuestError if it cannot be opened."""

    def __init__(self, pid: int) -> None:
        try:
            self._file = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            rights = "run as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or use `--reader dump`"
            raise process_error(error, pid, f"/proc/{pid}/mem", rights) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def copy(self, addresses: NDArray[np.uint64], scratch: memoryview) -> None:
        """Copy the pages at `addresses` consecutively to the front of `scratch`, which must have room for them. Raises
        OSError: ESRCH if the process has ended, EFAULT or EIO if an address is not mapped.
        """
        _check(addresses)
        at = 0
        for start, length in _ranges(addresses).tolist():
            end = at + length
            while at < end:
                got = os.preadv(self._file, [scratch[at:end]], start + length - (end - at))
                if got == 0:
                    raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
                at += got


def _check(addresses: NDArray[np.uint64]) -> None:
    if np.any(addresses % PAGE_SIZE) or np.any(addresses > MAX_ADDRESS - PAGE_SIZE):
        raise ValueError("an address is not the address of a page")
