"""The daemon's loop: connect, scan, update the snapshot, wait; handle signals; notify systemd."""

from __future__ import annotations

import ctypes
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from samepaged import hash_seed, sd_notify
from samepaged.backoff import Backoff
from samepaged.config import load
from samepaged.errors import HypervisorError, SamepagedError
from samepaged.guard.client import GuardClient
from samepaged.guard.journal import runtime_directory
from samepaged.guard.recover import Recovery
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.ksm import read_merging
from samepaged.log_line import details
from samepaged.memory.hashing import Hashing, Interrupted, best_hasher
from samepaged.scan.attribution import AttributionSchedule, attribution_reports, visible_attribution
from samepaged.scan.circuit_breaker import CircuitBreaker
from samepaged.scan.clocks import Clocks
from samepaged.scan.guest import GuestScanner
from samepaged.scan.host import HostRound, analyse_host, latest_scans, scan_host
from samepaged.scan.snapshot import (
    ConfigStatus,
    GuestAttribution,
    OpenJournalEntry,
    Snapshot,
    SnapshotStore,
    TraceStats,
)
from samepaged.scan.trace_recorder import TraceRecorder
from samepaged.service.history import history_point, with_counts, with_point
from samepaged.service.schedule import Schedule
from samepaged.service.textfile import Textfile
from samepaged.service.web_feed import WebFeed
from samepaged.traces.database import check_installed
from samepaged.web.process import ChildProcess

if TYPE_CHECKING:
    from pathlib import Path

    from samepaged.config import Config
    from samepaged.guard.resume_queue import PendingEntry
    from samepaged.guest_id import GuestId
    from samepaged.ksm import Merging
    from samepaged.memory.scan_state import ScanState
    from samepaged.scan.results import HostScan, ScannedGuest
    from samepaged.service.signals import Signals
    from samepaged.web.process import WebProcess

__all__ = ["Service"]

log = logging.getLogger(__name__)

# Seconds that a stop waits for a guest that could not be resumed at once. After that, the guard and ExecStopPost=
# continue.
CLOSE_SECONDS: Final = 3.0
# Interval of reading KSM's counters between scans.
COUNTER_SECONDS: Final = 15.0
# Number of processes and files that are kept and shown per guest.
MAX_OWNERS_PER_GUEST: Final = 200


class Service:
    """The daemon of `samepaged run`. `path` is the configuration file, which SIGHUP reloads; `web` connects to the web
    process.
    """

    def __init__(self, config: Config, path: Path | None, signals: Signals, web: WebProcess | None = None) -> None:
        self._config = config
        self._path = path
        self._signals = signals
        loaded = ConfigStatus(last_load_successful=True, loaded_at=time.time())
        self._store = SnapshotStore(Snapshot(loaded, config.scan, config.export, config.sources))
        self._hypervisor = LibvirtHypervisor(config.libvirt.uri, self._remove_guest, self._stop)
        self._schedule = Schedule(config.scan.interval, config.scan.jitter)
        self._backoff = Backoff()
        self._latest_scans: dict[GuestId, ScannedGuest] = {}
        self._merging_due = 0.0
        self._next_beat = 0.0
        self._seed = hash_seed.load(config.hashing.seed, config.state_directory)
        if config.traces.enabled:
            check_installed()
        self._recorder = TraceRecorder(config.traces, self._stop)
        self._scan_states: dict[GuestId, ScanState] = {}
        self._breaker = CircuitBreaker()
        self._clocks = Clocks()
        self._attribution = AttributionSchedule(config.sources)
        self._guard: GuardClient | None = None
        self._web_feed = WebFeed(self._store, web or ChildProcess(), config)
        self._textfile = Textfile()
        self._recovery = Recovery(
            config.runtime_directory, on_change=self._show_open_entries, on_settled=self._clocks.add_settled
        )

    def run(self) -> None:
        """Scan until a stop signal. Raises SamepagedError if it cannot start."""
        try:
            self._web_feed.start(self._stop)
            sd_notify.notify("READY=1", "STATUS=waiting for the first scan")
            self._recovery.start()
            while not self._signals.stopping:
                self._step()
        finally:
            sd_notify.notify("STOPPING=1")
            self._web_feed.stop()
            self._textfile.remove()
            self._recorder.close()
            try:
                self._recovery.close(CLOSE_SECONDS)
            finally:
                if self._guard is not None:
                    self._guard.close(wait=not self._recovery.pending)
                self._hypervisor.close()
                log.info("stopped")

    def _show_open_entries(self, pending: tuple[PendingEntry, ...]) -> None:
        """Publish a change of the open journal entries (called in the recovery's thread)."""
        entries = tuple(
            OpenJournalEntry(one.open_entry.entry.name, one.open_entry.since, one.progress) for one in pending
        )
        self._store.update(lambda snapshot: replace(snapshot, open_entries=entries))

    def _step(self) -> None:
        self._notify_watchdog()
        self._textfile.write(self._config.export.textfile, self._store.snapshot)
        self._recovery.step_without_thread()
        if self._signals.take_reload():
            self._reload()
        if not self._hypervisor.alive and not self._connect():
            return
        self._analyse_without_departed()
        now = time.monotonic()
        if now < self._schedule.due:
            self._update_counters(now)
            self._signals.wait(min(self._schedule.due - now, self._max_wait()))
            return
        self._schedule.started(now)
        try:
            self._scan()
            _release_memory()
        except Interrupted:
            log.info("scan interrupted%s", details(open_journal_entries=len(self._recovery.pending)))
        except HypervisorError as error:
            self._wait_for_libvirt(error)
        except SamepagedError as error:
            log.error("scan failed%s", details(error=error))  # noqa: TRY400 - no traceback

    def _max_wait(self) -> float:
        """The longest wait in seconds: a bound for systemd's watchdog, and for noticing a lost connection."""
        return min(sd_notify.watchdog_interval() or 5.0, 5.0)

    def _notify_watchdog(self) -> None:
        """Send a keep-alive to systemd's watchdog, at most twice per watchdog interval."""
        interval = sd_notify.watchdog_interval()
        now = time.monotonic()
        if interval is not None and now >= self._next_beat:
            sd_notify.notify("WATCHDOG=1")
            self._next_beat = now + interval / 2

    def _stop(self) -> bool:
        """Whether to stop; long operations poll this."""
        self._notify_watchdog()
        return self._signals.stopping

    def _connect(self) -> bool:
        try:
            self._hypervisor.connect()
        except HypervisorError as error:
            self._wait_for_libvirt(error)
            return False
        self._backoff.succeeded()
        log.info("connected to libvirt%s", details(uri=self._config.libvirt.uri))
        self._store.update(lambda snapshot: replace(snapshot, libvirt_up=True))
        return True

    def _wait_for_libvirt(self, error: HypervisorError) -> None:
        wait = self._backoff.failed()
        log.warning("libvirt unavailable%s", details(error=error, retry_seconds=round(wait, 1)))
        self._store.update(lambda snapshot: replace(snapshot, libvirt_up=False))
        sd_notify.notify("STATUS=libvirt unavailable")
        deadline = time.monotonic() + wait
        while not self._signals.stopping and (left := deadline - time.monotonic()) > 0:
            self._notify_watchdog()
            self._signals.wait(min(left, self._max_wait()))
            if self._signals.take_reload():
                self._reload()

    def _remove_guest(self, guest_id: GuestId) -> None:
        """Remove an ended domain (called in libvirt's event loop)."""
        self._store.remove(guest_id)
        self._signals.wake()

    def _analyse_without_departed(self) -> None:
        """Repeat the analysis without the guests that have ended since."""
        departed = self._store.take_departed()
        latest = self._store.snapshot.latest
        known = departed & self._latest_scans.keys()
        if latest is None or not known:
            return
        for guest_id in known:
            del self._latest_scans[guest_id]
        fresh = analyse_host(self._latest_scans.values(), latest.skipped, latest.started, latest.duration_seconds)
        # Results that need more than one scan's contents are kept, without the guest's own rows.
        fresh = replace(fresh, stable=latest.stable, page_sizes=latest.page_sizes)
        self._store.update(lambda snapshot: replace(snapshot, latest=fresh))

    def _scan(self) -> None:
        sd_notify.notify("STATUS=scanning")
        began = time.monotonic()
        hashing = Hashing(best_hasher(), self._seed, self._config.scan.thread_count, self._stop)
        guard, record = self._guard_client(), self._recorder.offer
        self._clocks.ledger.set_directory(guard.directory)
        scanner = GuestScanner(
            self._hypervisor,
            guard,
            self._config,
            hashing,
            self._scan_states,
            self._breaker,
            record,
            self._attribution,
            clocks=self._clocks,
            has_open_entry=self._recovery.has_guest,
        )
        try:
            round_ = scan_host(self._hypervisor, self._config, scanner)
        finally:
            self._recorder.round_ended()
        scanner.prune(round_.running_names)
        self._clocks.round_ended(round_.running_names, round_.skipped)
        for skipped in round_.skipped:
            if not skipped.reason.intended:
                reason = details(domain=skipped.name, reason=skipped.reason, error=skipped.message)
                log.warning("guest skipped%s", reason, extra=skipped.journal_fields())
        self._latest_scans = latest_scans(self._latest_scans, round_)
        latest = analyse_host((self._latest_scans | round_.scanned).values(), round_.skipped, round_.started, 0.0)
        # The duration of reading all guests and of the analysis.
        latest = replace(latest, duration_seconds=time.monotonic() - began)
        self._update_snapshot(round_, latest)
        self._analyse_without_departed()
        sd_notify.notify(f"STATUS=scanned {len(round_.scanned)} guests, {len(round_.skipped)} skipped")
        seconds = round(latest.duration_seconds, 1)
        log.info("scan finished%s", details(guests=len(round_.scanned), seconds=seconds))

    def _update_snapshot(self, round_: HostRound, latest: HostScan) -> None:
        """Update the snapshot with a scan of all guests."""
        merging = self._read_merging(self._store.snapshot)
        sources, trace_stats, paused = self._attributions(round_), self._trace_stats(), self._clocks.paused()
        self._store.update(
            lambda before: replace(
                with_counts(before, round_, self._latest_scans, latest.duration_seconds),
                latest=latest,
                merging=merging,
                attributions=sources,
                trace_stats=trace_stats,
                paused=paused,
                history=with_point(before.history, history_point(latest, merging)),
                next_scan=self._next_scan_time(),
                libvirt_up=True,
            )
        )

    def _attributions(self, round_: HostRound) -> dict[GuestId, GuestAttribution]:
        """The latest page attribution of each guest."""
        config = self._config.sources
        if not config.enabled:
            return {}
        scans = self._latest_scans | round_.scanned
        found = attribution_reports(scans, names=config.names, beat=self._notify_watchdog)
        fresh = {}
        for guest_id, one in found.items():
            started = scans[guest_id].scan.started
            self._recorder.offer(GuestAttribution(one, started))
            fresh[guest_id] = GuestAttribution(one.truncated(MAX_OWNERS_PER_GUEST), started)
        earlier = self._store.snapshot.attributions.items()
        return {
            guest_id: one.renamed(self._latest_scans[guest_id].scan.name)
            for guest_id, one in earlier
            if guest_id in self._latest_scans
        } | fresh

    def _read_merging(self, before: Snapshot) -> Merging | None:
        """Read KSM's counters of the host and of the scanned guests' processes."""
        return read_merging({guest_id: one.process for guest_id, one in self._latest_scans.items()}, before.merging)

    def _update_counters(self, now: float) -> None:
        """Update the counters that change between scans: KSM, traces, paused times."""
        if now >= self._merging_due:
            self._merging_due = now + COUNTER_SECONDS
            trace_stats, shown, paused = self._trace_stats(), self._store.snapshot, self._clocks.paused()
            merging = self._read_merging(shown)
            if (merging, trace_stats, paused) != (shown.merging, shown.trace_stats, shown.paused):
                self._store.update(
                    lambda snapshot: replace(snapshot, merging=merging, trace_stats=trace_stats, paused=paused)
                )

    def _trace_stats(self) -> TraceStats | None:
        """Counters of the trace recorder, or None if traces are disabled."""
        return self._recorder.stats if self._config.traces.enabled else None

    def _next_scan_time(self) -> float:
        """Time of the next scan, in seconds of the Unix epoch."""
        return time.time() + self._schedule.due - time.monotonic()

    def _guard_client(self) -> GuardClient:
        """Return the guard, with its journal in a directory that is writable now. Raises SamepagedError if none is."""
        uri, place = self._config.libvirt.uri, runtime_directory(self._config.runtime_directory)
        directory = place.path
        if self._guard is None or (self._guard.uri, self._guard.directory) != (uri, directory):
            if place.fallback_reason:
                remedy = "make room there, or set runtime_directory"
                log.warning(
                    "using a substitute runtime directory%s",
                    details(directory=directory, error=place.fallback_reason, remedy=remedy),
                )
            if self._guard is not None:
                self._guard.close()
            self._guard = GuardClient(uri, directory, self._stop)
        return self._guard

    def _reload(self) -> None:
        """Load and apply the configuration file. If that fails, the active configuration stays in force."""
        sd_notify.notify("RELOADING=1")
        try:
            config = load(self._path)
            self._apply(config)
        except SamepagedError as error:
            for line in str(error).splitlines():
                log.error("configuration not reloaded%s", details(error=line))  # noqa: TRY400 - no traceback
            self._store.update(
                lambda snapshot: replace(snapshot, config=replace(snapshot.config, last_load_successful=False))
            )
        else:
            log.info("configuration reloaded")
            loaded = ConfigStatus(last_load_successful=True, loaded_at=time.time())
            self._store.update(lambda snapshot: replace(snapshot, config=loaded))
        sd_notify.notify("READY=1")

    def _apply(self, config: Config) -> None:
        new_seed = hash_seed.load(config.hashing.seed, config.state_directory)
        if config.traces.enabled:
            check_installed()
        self._web_feed.change(config, self._stop)
        if config.libvirt.uri != self._config.libvirt.uri:
            self._hypervisor.close()
            self._hypervisor = LibvirtHypervisor(config.libvirt.uri, self._remove_guest, self._stop)
        if new_seed != self._seed:
            self._seed, self._latest_scans, self._scan_states = new_seed, {}, {}
        self._recovery.add_directory(config.runtime_directory)
        self._recorder.change(config.traces)
        self._attribution.change(config.sources)
        self._schedule.change(config.scan.interval, config.scan.jitter, time.monotonic())
        self._store.update(
            lambda snapshot: replace(
                snapshot,
                scan_config=config.scan,
                export_config=config.export,
                attribution_config=config.sources,
                next_scan=self._next_scan_time(),
                attributions=visible_attribution(snapshot.attributions, config.sources),
            )
        )
        logging.getLogger("samepaged").setLevel(config.log.level.upper())
        self._config = config


def _release_memory() -> None:
    """Return memory that a scan freed to the host (malloc_trim(3), if the C library has it): malloc keeps free memory
    below a block in use.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
