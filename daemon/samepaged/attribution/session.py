"""One attributed scan of a guest, from the daemon's side: which pages to copy and when.

The worker inspects the running guest's kernel. The session copies the needed pages at the instant of the digest. The
worker analyses them after the guest has resumed. The daemon does not interpret these pages: only the sandboxed
worker does (sandbox.py).
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from samepaged.arch import PAGE_SIZE
from samepaged.attribution.client import WorkerClient, WorkerRefused
from samepaged.attribution.messages import BLOCK_PAGES, MAX_NOTES
from samepaged.attribution.page_owners import KIND, PageOwners
from samepaged.attribution.sandbox import PROGRAM
from samepaged.formatting import size
from samepaged.ipc import GoneError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from samepaged.attribution.page_buffer import PageProvider
    from samepaged.attribution.ram_map import RamMap
    from samepaged.config import SourcesConfig

__all__ = ["AttributionSession", "GuestKernelCache"]

# The start of VMCOREINFO, which begins a page (kernel/vmcore_info.c).
MARK: Final = b"OSRELEASE="
NO_LINUX: Final = "no Linux kernel found in guest memory"
# Limit for sending the selection request while the guest is suspended, and again for the reply after its memory has
# been read.
SELECTION_SECONDS: Final = 0.1
# The selection may grow during the pause: by this part, and by this number of pages.
EXTRA_SELECTION_DIVISOR: Final = 8
EXTRA_SELECTION_PAGES: Final = 1024
# After a failure the search is repeated at the next attributed scan (the guest may have been booting), then with twice
# the distance each time, up to this number of scans.
MAX_SKIPPED_SCANS: Final = 10
EMPTY: Final = np.empty(0, dtype=np.int64)
NO_BYTES: Final = np.empty(0, dtype=np.uint8)


@dataclass(slots=True)
class GuestKernelCache:
    """State of one guest (one QEMU process) between its attributed scans.

    `notes` (int64) are the pages that may hold VMCOREINFO, None before the first search; `profile` (uint8) is the
    worker's profile of the kernel; `extra_pages` (int64) are the pages read besides struct pages and the selection.
    `failures` counts failures in a row, with the `failure_reason` of the last, and `skipped_scans` the scans since.
    """

    start_time: int
    notes: NDArray[np.int64] | None = None
    profile: NDArray[np.uint8] = field(default_factory=NO_BYTES.copy)
    extra_pages: NDArray[np.int64] = field(default_factory=EMPTY.copy)
    skipped_scans: int = 0
    failures: int = 0
    failure_reason: str = NO_LINUX

    def clear(self) -> None:
        """Drop the results; the next scan searches the whole guest."""
        self.notes, self.profile, self.extra_pages, self.skipped_scans = None, NO_BYTES, EMPTY, 0

    def record_failure(self, why: str) -> None:
        """Drop the results after a failure."""
        self.clear()
        self.failures, self.failure_reason = self.failures + 1, why

    def is_due(self) -> bool:
        """Whether to attribute this scan; call once per scan."""
        self.skipped_scans += 1
        return not self.failures or self.skipped_scans >= min(1 << (self.failures - 1), MAX_SKIPPED_SCANS)


class AttributionSession:
    """A PageObserver (memory/observer.py) of one scan, which updates `cache`. `layouts` are the possible RAM layouts,
    the likeliest first. `stop` is polled during waits. A context manager; call `start_attribution` and `finish` after
    the guest has resumed.
    """

    def __init__(
        self,
        cache: GuestKernelCache,
        layouts: Sequence[RamMap],
        config: SourcesConfig,
        stop: Callable[[], bool],
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.cache = cache
        self._layouts = layouts
        self._config = config
        self._stop = stop
        self._program = program
        self._client: WorkerClient | None = None
        self._closing_client: WorkerClient | None = None
        self._note: str | None = None
        # Pages to copy: those needed in any case, and those selected by the struct pages.
        self._needed = self._selected = EMPTY
        self._stale = np.zeros(layouts[0].pages, dtype=np.bool_)
        # Pages of blocks that the host did not back during the inspection, and those that it backed afterwards.
        self._unbacked = np.zeros(layouts[0].pages, dtype=np.bool_)
        self._newly_backed = EMPTY
        # Selected pages that may be copied during the pause.
        self._selection_budget = 0
        self._captured = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def decline(self, why: str) -> None:
        """As in PageObserver: skip the attribution of this guest, for this reason. The first reason counts."""
        self._note = self._note or why
        if self._client is not None:
            self._client.kill()
            self._client, self._closing_client = None, self._client

    def _close(self) -> None:
        """Wait until the worker exits; not while the guest is suspended."""
        for talk in (self._client, self._closing_client):
            if talk is not None:
                talk.close()
        self._client = self._closing_client = None

    @contextmanager
    def _attribution_errors(self) -> Iterator[None]:
        """Turn a failure of the worker into a note: it ends the attribution, but not the scan."""
        try:
            yield
        except WorkerRefused as error:
            self.decline(self._reason(error))
        except ProtocolError as error:
            told = self._client.exit_description() if isinstance(error, GoneError) and self._client is not None else ""
            self.decline(f"attribution worker failed: {told or error}")
        except (OSError, MemoryError) as error:
            self.decline(f"cannot run the attribution worker: {error or 'out of memory'}")

    def _reason(self, error: WorkerRefused) -> str:
        if (
            self._client is not None
            and not self._client.page_buffer.room
            and self._client.page_buffer.max_pages < len(self._stale)
        ):
            limit = size(self._config.memory_limit)
            return f"attribution must copy more guest memory than sources.memory_limit ({limit}); increase the limit"
        return str(error) if error.linux else f"{NO_LINUX}: {error}"

    def prepare(self, copies: PageProvider) -> None:
        """As in PageObserver: find the kernel, and the pages to copy."""
        known = self.cache
        if not known.is_due():
            self.decline(known.failure_reason)
            return
        with self._attribution_errors():
            self._find_kernel(copies)
        if self._client is None:
            known.record_failure(self._note or NO_LINUX)
            return
        known.failures = 0
        with self._attribution_errors():
            self._preallocate(self._client)

    def _find_kernel(self, copies: PageProvider) -> None:
        known = self.cache
        warm = len(known.profile) > 0
        notes = known.notes if warm and known.notes is not None else self._search(copies)
        if not len(notes):
            return
        talk = self._client = WorkerClient(self._layouts, self._config, self._stop, self._program)
        try:
            self._inspect(talk, copies, notes, cold=not warm)
        except WorkerRefused:
            if not warm:
                raise
            # The guest has booted again, with another kernel or another KASLR offset.
            known.clear()
            notes = self._search(copies)
            if len(notes):
                self._inspect(talk, copies, notes, cold=True)

    def _search(self, copies: PageProvider) -> NDArray[np.int64]:
        notes = self.cache.notes = copies.starting_with(MARK)[:MAX_NOTES]
        if not len(notes):
            self.decline(NO_LINUX)
        return notes

    def _inspect(self, client: WorkerClient, copies: PageProvider, notes: NDArray[np.int64], *, cold: bool) -> None:
        known = self.cache
        absent = copies.absent
        blocks = ~np.logical_and.reduceat(absent, np.arange(0, len(absent), BLOCK_PAGES))
        self._unbacked = ~np.repeat(blocks, BLOCK_PAGES)[: len(absent)]
        seen = client.inspect(copies, notes, known.profile, blocks, full=cold)
        known.profile = seen.profile
        known.extra_pages = np.union1d(known.extra_pages, seen.extra_pages)
        self._needed = np.union1d(known.extra_pages, seen.struct_pages)
        self._selected = np.setdiff1d(seen.selected_pages, self._needed, assume_unique=True)

    def _preallocate(self, client: WorkerClient) -> None:
        client.page_buffer.clear()
        if len(self._needed) > client.page_buffer.max_pages:
            needed, limit = size(len(self._needed) * PAGE_SIZE), size(self._config.memory_limit)
            self.decline(
                f"attribution must copy more than {needed} of guest memory, and sources.memory_limit is {limit}; "
                "increase the limit"
            )
            return
        client.page_buffer.preallocate(self.expected_copies(None))

    def expected_copies(self, written: NDArray[np.bool_] | None) -> int:
        """As in PageObserver."""
        if self._client is None:
            return 0
        if written is None:
            return min(len(self._needed) + self._max_selection, self._client.page_buffer.max_pages)
        stale = written | self._stale
        count = np.count_nonzero(stale[self._needed]) + np.count_nonzero(stale[self._selected])
        if count > self._client.page_buffer.room or self._stale.any():
            return self.expected_copies(None)  # all of it again: no free slots beside the old copies (_renew)
        return min(int(count) + self._max_extra_selection, self._client.page_buffer.max_pages)

    @property
    def _max_extra_selection(self) -> int:
        """The growth of the selection that is copied during the pause; the guest controls the selection."""
        return len(self._selected) // EXTRA_SELECTION_DIVISOR + EXTRA_SELECTION_PAGES

    @property
    def _max_selection(self) -> int:
        return len(self._selected) + self._max_extra_selection

    def copy_running(self, copies: PageProvider) -> None:
        """As in PageObserver."""
        with self._attribution_errors():
            if self._client is not None:
                self._client.page_buffer.clear()
                self._stale.fill(False)
                self._client.page_buffer.add(copies, np.concatenate([self._needed, self._selected]))

    def copy_written(self, copies: PageProvider, written: NDArray[np.bool_]) -> None:
        """As in PageObserver."""
        with self._attribution_errors():
            if self._client is not None:
                self._renew(self._client, copies, written)

    def _renew(self, client: WorkerClient, copies: PageProvider, written: NDArray[np.bool_]) -> None:
        """Copy written pages again, if there are free slots beside the old copies."""
        pages = np.concatenate([self._needed, self._selected])
        present = copies.present[pages]
        gone, pages = pages[~present], pages[present & (written | self._stale)[pages]]
        if len(pages) > client.page_buffer.room:
            # All pages are copied again while the guest is suspended, over the old copies.
            self._stale[pages] = True
            return
        client.page_buffer.add(copies, pages)
        client.page_buffer.add(copies, gone)  # takes no slots
        self._stale[pages] = False

    @contextmanager
    def while_suspended(self, copies: PageProvider, written: NDArray[np.bool_] | None) -> Iterator[None]:
        """As in PageObserver."""
        with self._attribution_errors():
            self._copy(copies, written)
        yield
        with self._attribution_errors():
            self._copy_selected(copies)

    def _copy(self, copies: PageProvider, written: NDArray[np.bool_] | None) -> None:
        talk = self._client
        if talk is None:
            return
        if written is not None:
            self._renew(talk, copies, written)
        self._selection_budget = self._max_extra_selection
        if written is None or self._stale.any():
            talk.page_buffer.clear()
            talk.page_buffer.add(copies, self._needed)
            self._selection_budget = self._max_selection
        talk.request_selection(self._needed, time.monotonic() + SELECTION_SECONDS)
        self._newly_backed = np.flatnonzero(self._unbacked & ~copies.absent)

    def _copy_selected(self, copies: PageProvider) -> None:
        talk = self._client
        if talk is None:
            return
        chosen = talk.receive_selection(time.monotonic() + SELECTION_SECONDS)
        lacking = chosen[talk.page_buffer.slots[chosen] < 0]
        talk.page_buffer.add(copies, lacking[: self._selection_budget])
        self._selected = chosen
        self._captured = True

    def start_attribution(self) -> None:
        """Start the analysis of the copied pages; `finish` waits for it."""
        with self._attribution_errors():
            if self._client is not None and self._captured:
                self._client.request_attribution(self._selected)
            else:
                self._close()

    def finish(self) -> PageOwners:
        """Return the page owners at the instant of the digest, or unknown owners with the reason."""
        found: PageOwners | None = None
        with self._attribution_errors():
            if self._client is not None and self._captured:
                lacking = int(np.count_nonzero(self._client.page_buffer.slots[self._selected] < 0))
                found, self.cache.extra_pages = self._client.receive_attribution()
                found.kinds[self._newly_backed], found.labels[self._newly_backed] = KIND["unknown"], -1
                found = replace(found, note=found.note or self._missing_note(lacking))
        self._close()
        if found is None:
            if self._captured:
                self.cache.clear()  # the cached state may be the cause
            return PageOwners.unknown(len(self._stale), self._note or "guest memory was not read at one instant")
        return found

    def _missing_note(self, pages: int) -> str | None:
        if not pages:
            return None
        return f"{pages} kernel pages were not copied (sources.memory_limit, or swapped out)"
