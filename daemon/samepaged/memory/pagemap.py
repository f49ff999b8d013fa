"""Entries of a process's pagemap (Documentation/admin-guide/mm/pagemap.rst), and the residency of pages derived from
them: in the process, in the file behind it, or in swap.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.os_errors import process_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["EXCLUSIVE", "FILE", "PRESENT", "SOFT_DIRTY", "SWAPPED", "Pagemap", "Residency", "decode", "residency"]

PRESENT: Final = np.uint64(1 << 63)
SWAPPED: Final = np.uint64(1 << 62)
FILE: Final = np.uint64(1 << 61)
EXCLUSIVE: Final = np.uint64(1 << 56)
SOFT_DIRTY: Final = np.uint64(1 << 55)

ENTRY_BYTES: Final = 8
CHUNK_BYTES: Final = 1 << 20


def decode(raw: bytes, pages: int) -> NDArray[np.uint64]:
    """Decode bytes read from a pagemap to entries: uint64 of shape (pages,). Raises GuestError if bytes are missing."""
    if len(raw) != pages * ENTRY_BYTES:
        raise GuestError(Reason.GONE, f"pagemap has {len(raw)} bytes for {pages} pages: the process has ended")
    return np.frombuffer(raw, "<u8")


class Pagemap:
    """/proc/PID/pagemap of one process, kept open. Raises GuestError."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        try:
            self._descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> GuestError:
        rights = "run as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or use `--reader dump`"
        return process_error(error, self._pid, f"/proc/{self._pid}/pagemap", rights)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def entries(self, start: int, size: int) -> NDArray[np.uint64]:
        """Read the entries of `size` bytes of pages from address `start`: uint64 of shape (size / 4096,)."""
        end = (start + size) // PAGE_SIZE * ENTRY_BYTES
        position = start // PAGE_SIZE * ENTRY_BYTES
        parts: list[bytes] = []
        try:
            while position < end:
                part = os.pread(self._descriptor, min(CHUNK_BYTES, end - position), position)
                if not part:
                    break
                parts.append(part)
                position += len(part)
        except OSError as error:
            raise self._failed(error) from error
        return decode(b"".join(parts), size // PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class Residency:
    """Three bool arrays of shape (pages,). At most one is true for a page; if all are false, the page is absent."""

    in_process: NDArray[np.bool_]
    in_file: NDArray[np.bool_]
    swapped: NDArray[np.bool_]

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the parts."""
        return cls(
            np.concatenate([part.in_process for part in parts]),
            np.concatenate([part.in_file for part in parts]),
            np.concatenate([part.swapped for part in parts]),
        )


def residency(
    entries: NDArray[np.uint64],
    held: NDArray[np.bool_] | None,
    resident: NDArray[np.bool_] | None,
    *,
    shared: bool,
) -> Residency:
    """Residency of the pages of a mapping, from its pagemap entries. For a mapping with a file, `held` marks the pages
    with data in the file, and `resident` those in memory.

    In a private mapping, a page is in the process after it was written, and in the file before. In a shared mapping, it
    is always in the file.
    """
    if held is None or resident is None:
        present = (entries & PRESENT) != 0
        return Residency(present, np.zeros_like(present), (entries & SWAPPED) != 0)
    if shared:
        own = out = np.zeros(len(entries), dtype=np.bool_)
    else:
        own, out = (entries & PRESENT) != 0, (entries & SWAPPED) != 0
    theirs = held & ~own & ~out
    return Residency(own, theirs & resident, out | (theirs & ~resident))
