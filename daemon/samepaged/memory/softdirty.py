"""Soft-dirty bits: which pages a process wrote since they were cleared (Documentation/admin-guide/mm/soft-dirty.rst).

The bits are cleared for all at once and read page by page. A write between the reading of a page's bit and the clearing
is lost; so they are cleared either before anything is read, or while the guest is suspended and writes nothing.
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
    """Whether this kernel keeps soft-dirty bits. A kernel without them takes the clearing and then never sets a bit, so
    a page of our own is written to see. Raises GuestError if a resource is exhausted; then the next call tries again.
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
    """Why the bits would not tell all of a guest's writes, or None. Raises GuestError."""
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
    """The present pages that may differ from `digest`, by their pagemap entries; both of shape (pages,).
    Pages that are not present need no reading: their entry says what they are.

    Besides the written ones: pages that were not read before, and pages whose bit may have been dropped. KSM drops a
    page's bit as it merges it, and merged pages are not exclusive; so while KSM is `merging`, none of those counts as
    unchanged. A page that was dropped (MADV_DONTNEED, as balloons do) and then read again is a zero page, with no bit,
    and not exclusive either.

    One hole is left while KSM merges: a page that was written, merged (which drops its bit) and then left alone with
    the merged copy, all since it was last read, is exclusive again and looks unchanged. No bit tells it; so a sample of
    the pages that look unchanged is read at each such scan (precopy.Verification), and `scan.still_ksm` closes it.
    """
    # A few of many pages, mostly, and only they are looked at closely: the guest is suspended meanwhile.
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


class LockHeld(Exception):  # noqa: N818 - no error: the caller takes another mode
    """Another samepaged holds the soft-dirty bits of this process."""


class SoftDirtyLock:
    """Holds the soft-dirty bits of a process against any other samepaged on this host (a `scan` beside the daemon, with
    whatever configuration), until it is released or forgotten. Raises LockHeld, and GuestError.

    It is a name among the abstract sockets (unix(7)): one process can have it, it needs no directory and no right, and
    it ends with its holder. Two that run in network namespaces of their own do not see each other's; and whoever else
    takes such a name gains nothing but that the guest is read in another mode.
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
