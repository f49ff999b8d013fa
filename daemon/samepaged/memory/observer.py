"""Whoever else needs some of the guest's pages as they were at the instant of its digest, and what they are handed."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.memory.locked_buffer import locked_buffer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from samepaged.memory.process_ram import ProcessRam
    from samepaged.memory.residency import Residency

__all__ = ["ABSENT", "SWAPPED", "NullObserver", "PageAccess", "PageObserver"]

# What Copies.copy says of a page that it did not copy.
ABSENT: Final = -1
SWAPPED: Final = -2
# Pages that are copied at a time to look for something in them: 2 MiB.
CHUNK_PAGES: Final = 512


class PageAccess:
    """Pages of a guest, to be had as copies. `where` is where each page is, which is looked up when it is first asked
    for if it is not given; absent ones are not touched, and swapped ones are not brought in.
    """

    def __init__(self, reader: ProcessRam, where: Residency | None = None) -> None:
        self._reader = reader
        self._looked = where
        self.copied = 0

    @property
    def _where(self) -> Residency:
        # Most scans have nobody as their witness, who asks for nothing.
        if self._looked is None:
            self._looked = self._reader.look()
        return self._looked

    @property
    def pages(self) -> int:
        """The guest's memory in pages."""
        return self._reader.pages

    def copy(self, pages: NDArray[np.int64], out: memoryview) -> NDArray[np.int32]:
        """Copy pages of these numbers (each once) one after the other to `out`, which has room for all: int32 of their
        shape, which place each has there, `ABSENT` (it reads as zeros) or `SWAPPED` (it is not to be had). Raises
        GuestError, and Interrupted.
        """
        places = np.where(self._where.swapped[pages], SWAPPED, ABSENT).astype(np.int32)
        done = 0
        for held, copy in (
            (self._where.in_process, self._reader.copy_pages),
            (self._where.in_file, self._reader.copy_file_pages),
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
        """Which pages would be copied: bool, (pages,)."""
        return self._where.in_process | self._where.in_file

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Which pages the host does not back: bool, (pages,)."""
        return ~(self._where.in_process | self._where.in_file | self._where.swapped)

    def starting_with(self, mark: bytes) -> NDArray[np.int64]:
        """The pages that begin with these bytes: int64, ascending. Raises as `copy` does."""
        buffer = locked_buffer(CHUNK_PAGES * PAGE_SIZE)
        wanted = np.frombuffer(mark, dtype=np.uint8)
        found = []
        held = np.flatnonzero(self.present)
        for start in range(0, len(held), CHUNK_PAGES):
            chunk = held[start : start + CHUNK_PAGES]
            places = self.copy(chunk, buffer)
            begins = np.frombuffer(buffer, dtype=np.uint8).reshape(CHUNK_PAGES, PAGE_SIZE)[: len(chunk), : len(wanted)]
            found.append(chunk[(begins == wanted).all(axis=1)[places]])
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


class PageObserver(Protocol):
    """Copies what it needs of a guest. Nothing that goes wrong with what it does with the copies is raised here, for
    that is no reason to give up a scan. GuestError and Interrupted, which Copies raises, are.
    """

    def prepare(self, copies: PageAccess) -> None:
        """The guest runs, and is going to be suspended; this may take seconds."""

    def expected(self, written: NDArray[np.bool_] | None) -> int:
        """How many pages it is going to copy while the guest is suspended. `written` (bool, all pages) are those that
        may have changed since `ahead` or, later, `again`; None where neither was called.
        """

    def ahead(self, copies: PageAccess) -> None:
        """Copy while the guest runs; what is written from here on, and before, too, is told."""

    def again(self, copies: PageAccess, written: NDArray[np.bool_]) -> None:
        """Copy these anew, while the guest runs."""

    def held(self, copies: PageAccess, written: NDArray[np.bool_] | None) -> AbstractContextManager[None]:
        """The guest is suspended, at the instant of its digest, while this context is entered: for its reading."""

    def decline(self, why: str) -> None:
        """There is no such instant in this scan, or not the time to copy anything in it."""


class NullObserver:
    """Copies nothing."""

    def prepare(self, copies: PageAccess) -> None:
        """As in Witness."""

    def expected(self, written: NDArray[np.bool_] | None) -> int:  # noqa: ARG002 - a Witness's
        """As in Witness."""
        return 0

    def ahead(self, copies: PageAccess) -> None:
        """As in Witness."""

    def again(self, copies: PageAccess, written: NDArray[np.bool_]) -> None:
        """As in Witness."""

    def held(self, copies: PageAccess, written: NDArray[np.bool_] | None) -> AbstractContextManager[None]:  # noqa: ARG002
        """As in Witness."""
        return nullcontext()

    def decline(self, why: str) -> None:
        """As in Witness."""
