"""Which pages of a process are backed (Documentation/admin-guide/mm/pagemap.rst)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.errors import GuestError, Reason
from samepaged.os_errors import process_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EXCLUSIVE", "FILE", "PRESENT", "SOFT_DIRTY", "SWAPPED", "Pagemap", "decode"]

PRESENT: Final = np.uint64(1 << 63)
SWAPPED: Final = np.uint64(1 << 62)
FILE: Final = np.uint64(1 << 61)
EXCLUSIVE: Final = np.uint64(1 << 56)
SOFT_DIRTY: Final = np.uint64(1 << 55)

ENTRY_BYTES: Final = 8
CHUNK_BYTES: Final = 1 << 20


def decode(raw: bytes, pages: int) -> NDArray[np.uint64]:
    """The entries in what was read from a pagemap: uint64 of shape (pages,). Raises GuestError where it is short."""
    if len(raw) != pages * ENTRY_BYTES:
        raise GuestError(Reason.GONE, f"pagemap has {len(raw)} bytes for {pages} pages: the process has ended")
    return np.frombuffer(raw, "<u8")


class Pagemap:
    """/proc/PID/pagemap of one process, held open. Raises GuestError."""

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
        """Entries of the pages from address `start`, `size` bytes on: uint64 of shape (size / 4096,)."""
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
