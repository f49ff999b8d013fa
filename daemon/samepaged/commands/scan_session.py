"""Scans on demand, for the commands `scan`, `advise` and `sources`."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING, Final, Self, TypeVar

from samepaged import hash_seed
from samepaged.commands.interface import INTERRUPTED
from samepaged.config import load
from samepaged.guard.client import GuardClient
from samepaged.guard.journal import runtime_directory
from samepaged.guard.recover import Recovery
from samepaged.hypervisor.libvirt_hypervisor import LibvirtHypervisor
from samepaged.ksm import read_merging
from samepaged.memory import capture, softdirty
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.privileges import seal
from samepaged.report.scan_table import Progress
from samepaged.scan.attribution import AttributionSchedule, attribution_reports
from samepaged.scan.circuit_breaker import CircuitBreaker
from samepaged.scan.clocks import Clocks, paused_times
from samepaged.scan.guest import GuestScanner
from samepaged.scan.host import analyse_host, scan_host

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from samepaged.attribution.report import AttributionReport
    from samepaged.config import Config, SourcesConfig
    from samepaged.drift.ledger import PausedTime
    from samepaged.guest_id import GuestId
    from samepaged.ksm import Merging
    from samepaged.scan.results import HostScan, ScannedGuest
    from samepaged.scan.trace_recorder import Record
    from samepaged.service.signals import Signals

__all__ = ["ScanSession", "bound_by_drift", "configured", "exit_status", "report_interrupted"]

# Time limit at the end of a command, for a guest that could not be resumed immediately.
CLOSE_SECONDS: Final = 3.0

Value = TypeVar("Value")


def configured(args: argparse.Namespace) -> Config:
    """Return the configuration, overridden by the options of the command line. Seals the process."""
    softdirty.supported()  # reads /proc/self, which belongs to root after seal(); the result is cached
    seal()
    config = load(args.config)
    logging.getLogger("samepaged").setLevel(max(logging.WARNING, logging.getLevelName(config.log.level.upper())))
    scan = {key: value for key in ("mode", "reader") if (value := getattr(args, key)) is not None}
    libvirt = {} if args.connect is None else {"uri": args.connect}
    return config.model_copy(
        update={"scan": config.scan.model_copy(update=scan), "libvirt": config.libvirt.model_copy(update=libvirt)}
    )


def bound_by_drift(args: argparse.Namespace) -> bool:
    """Return whether scan.max_drift applies to the scans of a command: not if its options select a mode, or a reader
    with only one mode.
    """
    reader = capture.READERS.get(args.reader)
    return args.mode is None and (reader is None or len(reader.modes) > 1)


class ScanSession:
    """A series of scans that share state, which makes each one after the first cheaper. `record` receives the scan of
    each guest. With `sources`, every scan includes page attribution. `bound`: whether scan.max_drift applies.

    A context manager: it connects to libvirt and recovers the guests that an earlier samepaged left suspended. Raises
    HypervisorError and, while scanning, Interrupted.
    """

    def __init__(
        self,
        config: Config,
        names: list[str],
        signals: Signals,
        record: Callable[[Record], None] | None = None,
        sources: SourcesConfig | None = None,
        *,
        bound: bool = True,
    ) -> None:
        def stop() -> bool:
            return signals.stopping

        self._config, self._names = config, names
        self._hypervisor = LibvirtHypervisor(config.libvirt.uri, stop=stop)
        self._hypervisor.connect()
        key = hash_seed.load(config.hashing.seed, config.state_directory)
        hashing = Hashing(best_hasher(), key, config.scan.thread_count, stop)
        self._guard = GuardClient(config.libvirt.uri, runtime_directory(config.runtime_directory).path, stop)
        self._clocks = Clocks()
        self._clocks.ledger.set_directory(self._guard.directory)
        attribution = None if sources is None else AttributionSchedule(sources)
        # Attribution needs one instant, so mode auto does not choose `sliced`.
        instant = sources is not None and config.scan.mode == "auto"
        self._recovery = Recovery(config.runtime_directory, on_settled=self._clocks.add_settled)
        self._scanner = GuestScanner(
            self._hypervisor,
            self._guard,
            config,
            hashing,
            {},
            CircuitBreaker(),
            record,
            attribution,
            one_instant=instant,
            clocks=self._clocks,
            bound=bound,
            has_open_entry=self._recovery.has_guest,
        )
        self._scanned: dict[GuestId, ScannedGuest] = {}
        self._running: set[GuestId] = set()

    def __enter__(self) -> Self:
        self._recovery.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._clocks.sync.wait(CLOSE_SECONDS)
        try:
            self._recovery.close(CLOSE_SECONDS)
        finally:
            self._guard.close(wait=not self._recovery.pending)
            self._hypervisor.close()

    def scan(self) -> HostScan:
        """Scan the guests once."""
        self._hypervisor.connect()
        self._scanner.prune(self._running)  # the guests of the previous scan
        began = time.monotonic()
        with Progress(sys.stderr) as progress:
            round_ = scan_host(self._hypervisor, self._config, self._scanner, self._names, progress.show)
        self._scanned = round_.scanned
        self._running = set(round_.running_names or round_.scanned)
        return analyse_host(round_.scanned.values(), round_.skipped, round_.started, time.monotonic() - began)

    def merging(self) -> Merging | None:
        """Return KSM's counters for the guests of the last scan; None if the kernel does not have KSM."""
        return read_merging({guest_id: one.process for guest_id, one in self._scanned.items()})

    def paused(self) -> dict[str, PausedTime]:
        """Return the suspended time of the guests of the last scan, by name."""
        return self._by_name(paused_times(self._clocks.ledger, self._scanned))

    def attribution_reports(self, *, names: bool) -> dict[str, AttributionReport]:
        """Return the page attribution of the guests of the last scan, by name."""
        return self._by_name(attribution_reports(self._scanned, names=names))

    def _by_name(self, values: Mapping[GuestId, Value]) -> dict[str, Value]:
        return {self._scanned[guest_id].scan.name: value for guest_id, value in values.items()}


def report_interrupted() -> int:
    """Report the interruption on stderr. Return the exit status."""
    print("samepaged: interrupted; all guests run", file=sys.stderr)
    return INTERRUPTED


def exit_status(scan: HostScan) -> int:
    """Print the unintended skips of a scan. Return the exit status."""
    unintended = [skipped for skipped in scan.skipped if not skipped.reason.intended]
    for skipped in unintended:
        print(f"samepaged: skipped: {skipped.message}", file=sys.stderr)
    return 1 if unintended else 0
