"""The scan of one guest, which joins hypervisor, memory and sharing."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from samepaged.arch import PAGE_SIZE
from samepaged.drift.budget import UNLIMITED
from samepaged.errors import GuestError, Reason
from samepaged.guard.suspend import Suspender
from samepaged.hypervisor.guest import Guest, check_links, describe
from samepaged.hypervisor.qemu_process import ProcessTable
from samepaged.ksm import process_merging
from samepaged.log_line import details
from samepaged.memory.capture import capture, is_substitute
from samepaged.memory.modes import ThroughputModel
from samepaged.memory.reader import Capture, GuestControl, GuestMemory, ScanRequest
from samepaged.memory.scan_state import ScanState, limit_memory
from samepaged.scan import audit
from samepaged.scan.results import GuestScan, ScannedGuest
from samepaged.scan.trace_recorder import Record
from samepaged.sharing import Contents, PageDigest, coarsen, stable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from samepaged.attribution.page_owners import PageOwners
    from samepaged.attribution.session import AttributionSession
    from samepaged.config import Config
    from samepaged.guard.client import GuardClient
    from samepaged.guest_id import GuestId
    from samepaged.hypervisor.protocol import Domain, Hypervisor
    from samepaged.memory.hashing import Hashing
    from samepaged.memory.observer import PageObserver
    from samepaged.scan.attribution import AttributionSchedule
    from samepaged.scan.circuit_breaker import CircuitBreaker
    from samepaged.scan.clocks import Clocks

__all__ = ["GuestScanner"]

log = logging.getLogger(__name__)


class GuestScanner:
    """Scans guests one after another, so that only one is suspended at a time. Keeps state that makes the next scan
    cheaper.

    `record` receives each scan after the guest resumed; `attribution` selects the scans with page attribution;
    `one_instant` is as in ScanRequest. The ledger in `clocks` counts the pauses; with `bound` they keep to
    scan.max_drift. `has_open_entry` returns whether an open journal entry names the guest with a UUID.
    """

    def __init__(
        self,
        hypervisor: Hypervisor,
        guard: GuardClient,
        config: Config,
        hashing: Hashing,
        kept: dict[GuestId, ScanState],
        breaker: CircuitBreaker | None = None,
        record: Callable[[Record], None] | None = None,
        attribution: AttributionSchedule | None = None,
        *,
        one_instant: bool = False,
        bound: bool = True,
        clocks: Clocks | None = None,
        has_open_entry: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._hypervisor = hypervisor
        self._has_open_entry = has_open_entry
        self._guard = guard
        self._breaker = breaker
        self._record = record
        self._attribution = attribution
        self._one_instant = one_instant
        self._clocks = clocks
        self._max_drift = config.scan.max_drift if bound else 1.0
        self._config = config
        self._hashing = hashing
        self._scan_states = kept
        self._processes = ProcessTable()
        self._multiples = [size for size in config.scan.page_sizes if size > PAGE_SIZE]

    def scan(self, domain: Domain, pauses: list[float] | None = None) -> ScannedGuest:
        """Scan one guest; the seconds of each pause are added to `pauses`, also when it fails. Raises GuestError,
        HypervisorError or Interrupted. The guest runs again, unless the error is LeftOpenError: then its journal entry
        is open, and is worked on.
        """
        self._check_open_entry(domain)
        guest = describe(domain, self._processes)
        check_links(guest, self._config.scan.mode, self._config.scan.macvtap)
        if self._breaker is not None:
            self._breaker.check(guest.guest_id, guest.name, time.monotonic())
        kept = self._scan_state(guest)
        pauses = [] if pauses is None else pauses
        suspender = Suspender(
            self._hypervisor, guest, self._guard, self._config.scan.max_pause, self._hashing.stop, pauses
        )
        if self._clocks is not None:
            self._clocks.ledger.refresh()
            suspender.account = self._clocks.ledger.account(guest.uuid, self._max_drift)
        attribution = self._attribution
        session = None if attribution is None else attribution.open_session(guest, kept.scans, suspender.stop)
        try:
            with audit.logged(guest.name, guest.uuid, suspender) as logged, session or nullcontext():
                scanned = self._scan(guest, kept, suspender, session)
                logged.mode = scanned.scan.mode
        finally:
            self._sync_clock(guest, suspender)
        return scanned

    def _sync_clock(self, guest: Guest, suspender: Suspender) -> None:
        """Have the guest's clock set if the pauses of this scan exceed scan.sync_clock_above."""
        scan = self._config.scan
        wanted = scan.sync_clock == "agent" and sum(suspender.pauses) > scan.sync_clock_above
        if self._clocks is not None and wanted and not suspender.failed:
            self._clocks.sync.request(guest.guest_id, guest.name)

    def _check_open_entry(self, domain: Domain) -> None:
        # If paused, it may be paused by samepaged; if running, it may be suspended at any moment.
        if self._has_open_entry(domain.uuid):
            raise GuestError(
                Reason.OPEN_ENTRY,
                "is not scanned: its journal entry is open, so a suspend call of an earlier scan may still be "
                "queued in libvirt",
                "see docs/operate/runbooks.md#samepagejournalentryopen",
                domain=domain.name,
            )

    def _scan(
        self, guest: Guest, kept: ScanState, suspender: Suspender, session: AttributionSession | None
    ) -> ScannedGuest:
        known, pauses = kept.digest, suspender.pauses
        started, began = time.time(), time.monotonic()
        try:
            captured = self._capture(guest, suspender, kept, session)
        finally:
            self._update_breaker(guest, suspender)
        guest.process.check()
        if session is not None:
            session.start_attribution()
        duration = time.monotonic() - began
        if captured.fallback is not None:
            asked = self._config.scan.mode != "auto" or is_substitute(captured.reader, self._config.scan.reader)
            level, reason = logging.WARNING if asked else logging.DEBUG, captured.fallback.text
            chosen = details(domain=guest.name, mode=captured.mode, reader=captured.reader, reason=reason)
            log.log(level, "scan used a fallback%s", chosen)
        contents = Contents.of(captured.digest)
        merged = process_merging(guest.process.pid)
        # Shared pages that KSM did not merge are the kernel's zero page.
        unbacked = captured.not_exclusive - (0 if merged is None else merged.merged_pages)
        scan = replace(
            self._describe(guest, captured, pauses, started, duration),
            unbacked_zero_pages=min(max(unbacked, 0), contents.zero_pages),
        )
        lasting = None if known is None else Contents.of(stable(PageDigest(known, PAGE_SIZE), captured.digest))
        sizes = {size: Contents.of(coarsen(captured.digest, size)) for size in self._multiples}
        sizes |= {parts.page_size: Contents.of(parts, in_place=True) for parts in captured.subpages}
        if self._record is not None:
            self._record(Record.of(captured.digest, scan, sizes, self._hashing.seed))
        scanned = ScannedGuest(scan, guest.process, contents, lasting, sizes)
        if session is None:
            return scanned
        return replace(scanned, ownership=self._finish_attribution(guest, session), digest=captured.digest)

    def _finish_attribution(self, guest: Guest, session: AttributionSession) -> PageOwners:
        ownership = session.finish()
        if ownership.note is not None:
            level = logging.DEBUG if ownership.kernel else logging.INFO
            log.log(level, "page attribution incomplete%s", details(domain=guest.name, reason=ownership.note))
        return ownership

    def _capture(self, guest: Guest, suspender: Suspender, kept: ScanState, observer: PageObserver | None) -> Capture:
        return capture(
            GuestMemory(guest.process.pid, guest.xml.blocks, paused=guest.paused, vfio=guest.xml.vfio),
            GuestControl(suspender, lambda path: self._dump(guest, path), self._guard.directory),
            replace(self._hashing, stop=suspender.stop),
            ScanRequest(self._config.scan, suspender.account or UNLIMITED, one_instant=self._one_instant),
            kept,
            observer,
        )

    def _update_breaker(self, guest: Guest, suspender: Suspender) -> None:
        """Record the guest's pauses in its circuit breaker."""
        if not (suspender.pauses or suspender.failed):
            return  # without a suspension, the scan is not evidence
        longest, bound = max(suspender.pauses, default=0.0), self._config.scan.max_pause
        if self._breaker is not None and self._breaker.record(
            guest.guest_id, time.monotonic(), failed=suspender.failed, longest_pause=longest, max_pause=bound
        ):
            text = "pauses failed or exceeded scan.max_pause, skipping the guest for one hour%s"
            log.error(text, details(domain=guest.name))

    def _scan_state(self, guest: Guest) -> ScanState:
        """Scan state of the guest's process; a new process has a new one. The throughput model outlives the process."""
        kept = self._scan_states.get(guest.guest_id)
        if kept is None or kept.start_time != guest.process.start_time:
            kept = ScanState(guest.process.start_time, kept.throughput if kept else ThroughputModel())
            self._scan_states[guest.guest_id] = kept
        return kept

    def begin_round(self) -> None:
        """Begin a round of scans."""
        self._processes = ProcessTable()
        if self._attribution is not None:
            self._attribution.begin_round()

    def prune(self, running: Collection[GuestId]) -> None:
        """Drop the state of guests that are not `running`, and state above scan.memory_limit."""
        for guest_id in self._scan_states.keys() - set(running):
            del self._scan_states[guest_id]
        if self._breaker is not None:
            self._breaker.forget(set(running))
        if self._clocks is not None:
            self._clocks.sync.forget(set(running))
        if self._attribution is not None:
            self._attribution.forget(set(running))
        forgotten = limit_memory(self._scan_states.values(), self._config.scan.memory_limit)
        if forgotten:
            log.warning("scan.memory_limit reached, full read at the next scan%s", details(guests=forgotten))

    def _dump(self, guest: Guest, path: Path) -> None:
        # Look the domain up again: the connection may be another one.
        self._hypervisor.by_uuid(guest.uuid).dump(path)

    def _describe(
        self, guest: Guest, captured: Capture, pauses: Sequence[float], started: float, duration: float
    ) -> GuestScan:
        return GuestScan(
            name=guest.name,
            guest_id=guest.guest_id,
            group=self._config.group_of(guest.name, guest.xml.metadata_groups),
            mode=captured.mode,
            reader=captured.reader,
            started=started,
            duration_seconds=duration,
            pauses=len(pauses),
            pause_seconds=sum(pauses),
            longest_pause_seconds=max(pauses, default=0.0),
            bytes_read=captured.bytes_read,
            fallback_reason=None if captured.fallback is None else captured.fallback.text,
            fallback_code=None if captured.fallback is None else captured.fallback.code,
            merge_obstacle=guest.merge_obstacle or captured.merge_obstacle,
            device_writes=guest.xml.device_writes,
        )
