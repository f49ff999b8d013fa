"""Soft-dirty bits: the pages that a process wrote since the bits were cleared.

See Documentation/admin-guide/mm/soft-dirty.rst. The bits are cleared for all pages at once, but read page by page. A
write between the read of a page's bit and the clearing is lost. So they are cleared either before the first read, or
while the guest is suspended.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import socket
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.memory.modes import FallbackReason
from samepaged.memory.pagemap import EXCLUSIVE, PRESENT, SOFT_DIRTY, Pagemap
from samepaged.os_errors import exhausted, no_resources, process_error
from samepaged.sharing.digest import SWAPPED as SWAPPED_PAGE
from samepaged.sharing.digest import ZERO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from samepaged.memory.ram_location import RamMapping

__all__ = ["LockHeld", "SoftDirtyLock", "changed_pages", "clear", "obstacle", "supported"]


def clear(pid: int) -> None:
    """Clear the soft-dirty bits of all pages of a process. Raises GuestError."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("4")
    except OSError as error:
        rights = "run as root or with CAP_SYS_PTRACE and CAP_DAC_OVERRIDE, or use `--mode snapshot`"
        raise process_error(error, pid, f"/proc/{pid}/clear_refs", rights) from error


@functools.cache
def supported() -> bool:
    """Whether this kernel supports soft-dirty bits. A kernel without them accepts the clearing and never sets a bit, so
    a write to a test page decides. Raises GuestError if a resource is exhausted; then the next call tries again.
    """
    try:
        page = mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise no_resources("memory for a test of soft-dirty bits", error, "allocated") from error
    with page:
        page[0] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        try:
            with Pagemap(os.getpid()) as pagemap:
                clear(os.getpid())
                cleared = pagemap.entries(address, PAGE_SIZE)[0]
                page[0] = 2
                written = pagemap.entries(address, PAGE_SIZE)[0]
        except GuestError as error:
            if error.reason is Reason.NO_RESOURCES:
                raise
            return False
        return not cleared & SOFT_DIRTY and bool(written & SOFT_DIRTY)


def _can_clear(pid: int) -> bool:
    try:
        os.close(os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY))
    except PermissionError:
        return False
    except OSError as error:
        if exhausted(error):
            raise no_resources(f"/proc/{pid}/clear_refs", error) from error
        return True  # the process has ended; its reader reports that
    return True


def obstacle(pid: int, mappings: Sequence[RamMapping], *, vfio: bool) -> FallbackReason | None:
    """The reason that the bits would not show all of a guest's writes, or None. Raises GuestError."""
    if any(mapping.hugetlb for mapping in mappings):
        return FallbackReason("hugetlb", "its memory is in huge pages (hugetlbfs), which lack soft-dirty bits")
    if any(mapping.shared or mapping.has_file for mapping in mappings):
        return FallbackReason(
            "shared", "its memory is shared or in a file: writes through other mappings do not set soft-dirty bits"
        )
    if vfio:
        return FallbackReason("vfio", "it has a host device (VFIO): writes by the device do not set soft-dirty bits")
    if not supported():
        return FallbackReason("kernel", "this kernel does not support soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)")
    if not _can_clear(pid):
        return FallbackReason("permission", "this user may not clear soft-dirty bits; add CAP_DAC_OVERRIDE")
    return None


def changed_pages(entries: NDArray[np.uint64], digest: NDArray[np.uint64], *, merging: bool) -> NDArray[np.bool_]:
    """The present pages that may differ from `digest`, from their pagemap entries; both of shape (pages,). The entry of
    a page that is not present has its state, so such a page is not read.

    Included are written pages, pages that were not read before, and pages with a possibly dropped bit. KSM drops the
    bit of a page when it merges it, and merged pages are not exclusive; so while KSM is `merging`, pages that are not
    exclusive count as changed. A page that was dropped (MADV_DONTNEED, as balloons do) and then read again is a zero
    page, without the bit, and not exclusive either.

    One case remains while KSM merges. A page may be written, merged (which drops its bit), and then become the only
    user of the merged copy, all since its last read. It is then exclusive again and looks unchanged: the bits cannot
    show the write. So each such scan reads a sample of the pages that look unchanged (precopy.Verification). With
    `scan.still_ksm` the case does not occur.
    """
    # Mostly few of many pages. Only these are examined in detail, because the guest is suspended meanwhile.
    at = np.flatnonzero(
        ((entries & (PRESENT | EXCLUSIVE | SOFT_DIRTY)) != (PRESENT | EXCLUSIVE)) | _unread_pages(digest)
    )
    entry, known = entries[at], digest[at]
    not_exclusive = (entry & EXCLUSIVE) == 0
    doubtful = not_exclusive if merging else not_exclusive & (known != ZERO)
    found = np.zeros(len(entries), dtype=np.bool_)
    found[at] = ((entry & PRESENT) != 0) & (((entry & SOFT_DIRTY) != 0) | _unread_pages(known) | doubtful)
    return found


def _unread_pages(digest: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return digest <= SWAPPED_PAGE


class LockHeld(Exception):  # noqa: N818 - not an error: the caller chooses another mode
    """Another samepaged process holds the lock of this process's soft-dirty bits."""


class SoftDirtyLock:
    """The lock of a process's soft-dirty bits among all samepaged processes on this host (such as a `scan` command
    beside the daemon, with any configuration). It is released explicitly or by the garbage collector. Raises LockHeld,
    and GuestError.

    The lock is an abstract socket address (unix(7)). Only one process can bind it, it needs neither a directory nor
    permissions, and it ends with its process. Processes in different network namespaces do not share the lock. If an
    unrelated process binds the address, the guest is read in another mode.
    """

    def __init__(self, pid: int) -> None:
        try:
            holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            raise _lock_error(error) from error
        try:
            holder.bind(f"\0samepaged-soft-dirty-{pid}")
        except OSError as error:
            holder.close()
            if error.errno == errno.EADDRINUSE:
                raise LockHeld from error
            raise _lock_error(error) from error
        self.release = weakref.finalize(self, holder.close)


def _lock_error(error: OSError) -> GuestError:
    if exhausted(error):
        return no_resources("the socket that locks the soft-dirty bits", error)
    return GuestError(Reason.READ, f"cannot lock its soft-dirty bits ({error.strerror})", "use `--mode snapshot`")
