"""Trace recorder: a separate thread writes a trace of each scanned guest, so that guests do not wait for a disk."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from samepaged import threads
from samepaged.attribution.document import attribution_document
from samepaged.errors import SamepagedError
from samepaged.escape import valid
from samepaged.log_line import details
from samepaged.scan.snapshot import GuestAttribution, TraceStats
from samepaged.traces import PageSizeCounts, Trace, TraceStore, attribution_file, seed_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from samepaged.config import TracesConfig
    from samepaged.scan.results import GuestScan
    from samepaged.sharing import Contents, PageDigest

__all__ = ["Record", "TraceRecorder", "write_owners", "write_trace"]

log = logging.getLogger(__name__)

# Length of the queue of digests: 8 bytes per page each, unless they are kept for the next scan anyway.
MAX_WAITING_RECORDS: Final = 4
# Total seconds that a round waits for a slow disk between its guests; after that, traces are lost.
MAX_WAIT_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.2
# Seconds that a stop waits for pending writes.
STOP_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """The parts of one guest's scan for a trace. The digest is read only. `sizes` has the counts for each other page
    size: all pages, zero, distinct, duplicate.
    """

    digest: PageDigest = field(repr=False)
    scan: GuestScan
    sizes: Mapping[int, tuple[int, int, int, int]]
    seed: int = field(repr=False)

    @classmethod
    def of(cls, digest: PageDigest, scan: GuestScan, by_page_size: Mapping[int, Contents], seed: int) -> Record:
        """Create a record; for other page sizes it keeps only the counts."""
        sizes = {
            size: (one.memory_pages, one.zero_pages, one.distinct_pages, one.duplicate_pages)
            for size, one in sorted(by_page_size.items())
        }
        return cls(digest, scan, sizes, seed)


def write_trace(record: Record, host: str, directory: Path) -> None:
    """Write a trace below `directory`. Raises SamepagedError."""
    scan = record.scan
    TraceStore(directory).write(
        Trace.of(
            record.digest,
            host=host,
            domain=scan.name,
            uuid=scan.uuid,
            scanned_at=scan.started,
            seed=seed_id(record.seed),
            mode=scan.mode,
            by_page_size=tuple(PageSizeCounts(size, *counts) for size, counts in record.sizes.items()),
            host_memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        )
    )


def write_owners(attribution: GuestAttribution, host: str, directory: Path) -> None:
    """Write the page attribution beside an existing trace. It follows after the round, because sharing with other
    guests is available only then. Does nothing if the trace was lost. Raises SamepagedError.
    """
    report = attribution.report
    trace = TraceStore(directory).path_of(valid(host), valid(report.domain), attribution.scanned_at)
    if trace.exists():
        told = attribution_document(report.truncated(attribution_file.MAX_OWNERS))
        attribution_file.write(trace, {**told, "host": valid(host), "scanned_at": attribution.scanned_at})


class TraceRecorder:
    """Writes the offered records, and prunes old traces after each round. `stop` is polled while a scan waits."""

    def __init__(self, config: TracesConfig, stop: Callable[[], bool]) -> None:
        self._config = config
        self._stop = stop
        self._waiting: queue.Queue[Record | GuestAttribution | None] = queue.Queue(MAX_WAITING_RECORDS)
        self._thread: threading.Thread | None = None
        self._warned = False
        self._wait_seconds = MAX_WAIT_SECONDS
        self._lock = threading.Lock()
        self.stats = TraceStats()

    def change(self, config: TracesConfig) -> None:
        """Apply this configuration."""
        self._config = config

    def offer(self, record: Record | GuestAttribution) -> None:
        """Queue a trace or a page attribution, if traces are enabled."""
        if self._config.enabled:
            self._enqueue(record)

    def round_ended(self) -> None:
        """Prune after all queued records are written."""
        if self._config.enabled:
            self._enqueue(None)
        self._wait_seconds = MAX_WAIT_SECONDS

    def close(self) -> None:
        """Wait up to STOP_SECONDS for pending writes."""
        deadline = time.monotonic() + STOP_SECONDS
        while self._thread is not None and self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 4)

    def _enqueue(self, record: Record | GuestAttribution | None) -> None:
        began = time.monotonic()
        deadline = began + self._wait_seconds
        try:
            self._start_thread()
            while not self._stop():
                try:
                    self._waiting.put(record, timeout=max(0.0, min(POLL_SECONDS, deadline - time.monotonic())))
                except queue.Full:
                    if time.monotonic() < deadline:
                        continue
                    directory = self._config.directory
                    self._report_failure(
                        f"{directory}: the disk is too slow; use a faster one, or scan less often", record
                    )
                return
        except SamepagedError as error:
            self._report_failure(str(error), record)
        finally:
            self._wait_seconds = max(0.0, self._wait_seconds - (time.monotonic() - began))

    def _start_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._write_records, name="traces", daemon=True)
            threads.start(thread, SamepagedError)
            self._thread = thread

    def _write_records(self) -> None:
        while True:
            record = self._waiting.get()
            config = self._config
            try:
                if record is None:
                    self._prune(config)
                elif isinstance(record, GuestAttribution):
                    write_owners(record, config.host_name, config.directory)
                else:
                    write_trace(record, config.host_name, config.directory)
                    with self._lock:
                        self.stats = replace(self.stats, written=self.stats.written + 1)
                    self._warned = False
            except SamepagedError as error:
                self._report_failure(str(error), record)
            except (OSError, MemoryError) as error:
                self._report_failure(
                    f"{config.directory}: {error or 'out of memory'}; try again with the next scan", record
                )
            except Exception:
                log.exception("unexpected error, please report it")
                self._report_failure("unexpected error", record)
            finally:
                del record
                self._waiting.task_done()

    def _prune(self, config: TracesConfig) -> None:
        store, host = TraceStore(config.directory), config.host_name
        try:
            removed = store.prune(time.time(), max_age=config.max_age, max_bytes=config.max_bytes, host=host)
            if removed:
                log.info("old traces removed%s", details(files=len(removed)))
        finally:
            with self._lock:
                self.stats = replace(self.stats, stored_bytes=store.size(host))

    def _report_failure(self, reason: str, record: Record | GuestAttribution | None) -> None:
        """Count a lost trace, and log the first of consecutive failures, because the others differ only in the file
        name.
        """
        if isinstance(record, Record):
            with self._lock:
                self.stats = replace(self.stats, lost=self.stats.lost + 1)
        if not self._warned:
            if record is None:
                failure = "old traces not removed"
            else:
                failure = "trace not written" if isinstance(record, Record) else "page attribution not written"
            log.warning("%s%s", failure, details(error=reason))
        self._warned = True
