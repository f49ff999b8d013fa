"""Copies of a guest's pages at the instant of its digest: the observer protocol, and access to the pages."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.memory.locked_buffer import locked_buffer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from samepaged.memory.pagemap import Residency
    from samepaged.memory.process_ram import ProcessRam

__all__ = ["ABSENT", "SWAPPED", "NullObserver", "PageAccess", "PageObserver"]

# Results of PageAccess.copy for a page that it did not copy.
ABSENT: Final = -1
SWAPPED: Final = -2
# Pages that are copied at a time in a search: 2 MiB.
CHUNK_PAGES: Final = 512


class PageAccess:
    """Copies a guest's pages. `residency` is read on first use if it is not given. Absent pages are not touched, and
    swapped pages are not swapped in.
    """

    def __init__(self, ram: ProcessRam, residency: Residency | None = None) -> None:
        self._ram = ram
        self._cached_residency = residency
        self.copied = 0

    @property
    def _residency(self) -> Residency:
        # Most scans have a NullObserver, which does not need it.
        if self._cached_residency is None:
            self._cached_residency = self._ram.look()
        return self._cached_residency

    @property
    def pages(self) -> int:
        """Size of the guest's memory in pages."""
        return self._ram.pages

    def copy(self, pages: NDArray[np.int64], out: memoryview) -> NDArray[np.int32]:
        """Copy the pages with these numbers (each once) consecutively to `out`, which has room for all of them. Returns
        int32 of the same shape: the index of each page in `out`, `ABSENT` (it reads as zeros) or `SWAPPED` (not
        available). Raises GuestError, and Interrupted.
        """
        places = np.where(self._residency.swapped[pages], SWAPPED, ABSENT).astype(np.int32)
        done = 0
        for held, copy in (
            (self._residency.in_process, self._ram.copy_pages),
            (self._residency.in_file, self._ram.copy_file_pages),
        ):
            own = np.flatnonzero(held[pages])
            own = own[np.argsort(pages[own], kind="stable")]
            if len(own):
                copy(pages[own].astype(np.intp), out[done * PAGE_SIZE : (done + len(own)) * PAGE_SIZE])
                places[own] = np.arange(done, done + len(own), dtype=np.int32)
                done += len(own)
        self.copied += done
        return places

    @property
    def present(self) -> NDArray[np.bool_]:
        """The pages that can be copied: bool, (pages,)."""
        return self._residency.in_process | self._residency.in_file

    @property
    def absent(self) -> NDArray[np.bool_]:
        """The pages that the host does not back: bool, (pages,)."""
        return ~(self._residency.in_process | self._residency.in_file | self._residency.swapped)

    def starting_with(self, mark: bytes) -> NDArray[np.int64]:
        """The pages that begin with these bytes: int64, ascending. Raises as `copy` does."""
        buffer = locked_buffer(CHUNK_PAGES * PAGE_SIZE)
        prefix = np.frombuffer(mark, dtype=np.uint8)
        found = []
        held = np.flatnonzero(self.present)
        for start in range(0, len(held), CHUNK_PAGES):
            chunk = held[start : start + CHUNK_PAGES]
            places = self.copy(chunk, buffer)
            begins = np.frombuffer(buffer, dtype=np.uint8).reshape(CHUNK_PAGES, PAGE_SIZE)[: len(chunk), : len(prefix)]
            found.append(chunk[(begins == prefix).all(axis=1)[places]])
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


class PageObserver(Protocol):
    """Copies the pages of a guest that it needs. It raises only the GuestError and Interrupted of PageAccess: an error
    in the use of the copies does not end a scan.
    """

    def prepare(self, copies: PageAccess) -> None:
        """Prepare while the guest runs, before it is suspended; this may take seconds."""

    def expected_copies(self, written: NDArray[np.bool_] | None) -> int:
        """The number of pages to copy while the guest is suspended. `written` (bool, all pages) marks pages that may
        have changed since `copy_running` or, later, `copy_written`; None if neither was called.
        """

    def copy_running(self, copies: PageAccess) -> None:
        """Copy while the guest runs; `copy_written` or `while_suspended` receives the pages written meanwhile."""

    def copy_written(self, copies: PageAccess, written: NDArray[np.bool_]) -> None:
        """Copy the written pages again, while the guest runs."""

    def while_suspended(self, copies: PageAccess, written: NDArray[np.bool_] | None) -> AbstractContextManager[None]:
        """A context around the read of the guest, during which it is suspended at the instant of its digest."""

    def decline(self, why: str) -> None:
        """Record that this scan cannot copy: its mode reads at several instants, or the copy would take too long. `why`
        is the reason as a line of text.
        """


class NullObserver:
    """An observer that does not copy."""

    def prepare(self, copies: PageAccess) -> None:
        """As in PageObserver."""

    def expected_copies(self, written: NDArray[np.bool_] | None) -> int:  # noqa: ARG002 - the protocol's
        """As in PageObserver."""
        return 0

    def copy_running(self, copies: PageAccess) -> None:
        """As in PageObserver."""

    def copy_written(self, copies: PageAccess, written: NDArray[np.bool_]) -> None:
        """As in PageObserver."""

    def while_suspended(self, copies: PageAccess, written: NDArray[np.bool_] | None) -> AbstractContextManager[None]:  # noqa: ARG002
        """As in PageObserver."""
        return nullcontext()

    def decline(self, why: str) -> None:
        """As in PageObserver."""
