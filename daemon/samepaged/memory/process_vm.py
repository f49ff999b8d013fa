"""Copying pages out of a process, in two ways.

process_vm_readv(2) is the faster. It pins the pages for the moment, and the kernel gives a process a page of its own
before it lets one be pinned that is shared (gup_must_unshare in include/linux/mm.h, since Linux 5.19): reading so
undoes what KSM has merged, and the host would need that memory again. /proc/PID/mem does not pin.
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
# Each may be a range of its own, and a call takes no more than 1024 of them (IOV_MAX).
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
    """Copy the pages at `addresses` of a process one after the other to the front of `scratch`, which must hold them.
    Raises OSError as Hasher.read_process does.
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
            # A short read ends at a page that cannot be read: the next round meets it first, and learns why.
            done += got // PAGE_SIZE
    finally:
        del anchor  # else the scratch cannot be closed


def _ranges(addresses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Where the runs of neighbouring pages start, and how many bytes each has: rows that are of struct iovec's form."""
    firsts = np.flatnonzero(np.diff(addresses, prepend=addresses[:1]) != PAGE_SIZE)
    ranges = np.empty((len(firsts), 2), dtype=np.uint64)
    ranges[:, 0] = addresses[firsts]
    ranges[:, 1] = np.diff(firsts, append=len(addresses)) * PAGE_SIZE
    return ranges


class ProcessMemory:
    """/proc/PID/mem of one process, held open (proc_pid_mem(5)). Raises GuestError where it cannot be opened."""

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
        """Copy the pages at `addresses` one after the other to the front of `scratch`, which must hold them. Raises
        OSError: ESRCH where the process has ended, EFAULT or EIO where there is no memory.
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
