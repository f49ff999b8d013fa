"""Scanning on demand: what `scan` and `advise` have in common."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, get_args

from samepaged import hash_seed
from samepaged.commands.command import INTERRUPTED
from samepaged.config import Mode, Reader, load
from samepaged.guard.client import GuardClient
from samepaged.guard.directories import runtime_directory
from samepaged.guard.recover import Recovery
from samepaged.hypervisor.connection import Hypervisor
from samepaged.memory import capture, softdirty
from samepaged.memory.hashing import Hashing, best_hasher
from samepaged.privileges import seal
from samepaged.report.scan_table import Progress
from samepaged.scan.attribution import AttributionSchedule
from samepaged.scan.attribution_report import answers_of
from samepaged.scan.circuit_breaker import CircuitBreaker
from samepaged.scan.clocks import Clocks, paused_times
from samepaged.scan.guest import GuestScanner, ScannedGuest
from samepaged.scan.host import report, scan_all
from samepaged.scan.ksm import read_merging

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from samepaged.attribution.report import AttributionReport
    from samepaged.config import Config, SourcesConfig
    from samepaged.drift.ledger import PausedTime
    from samepaged.scan.results import HostScan
    from samepaged.scan.snapshot import Merging
    from samepaged.scan.trace_recorder import Record
    from samepaged.service.signals import Signals

__all__ = ["Scans", "add_arguments", "bound_by_drift", "configured", "interrupted", "status"]

# For so long the end of a command waits for a guest that it could not resume at once.
CLOSE_SECONDS: Final = 3.0

MODES: Final = get_args(Mode)
READERS: Final = get_args(Reader)


def add_arguments(parser: argparse.ArgumentParser, *, named: bool = False) -> None:
    """Which guests, and how they are scanned. `named`: at least one has to be named."""
    if named:
        parser.add_argument("domains", metavar="DOMAIN", nargs="+", help="names or UUIDs")
    else:
        parser.add_argument("domains", metavar="DOMAIN", nargs="*", help="names or UUIDs (default: all that run)")
    parser.add_argument("--config", metavar="F", type=Path, help="the configuration file (default: none)")
    parser.add_argument("--connect", metavar="URI", help="libvirt's URI, instead of the configured one")
    parser.add_argument("--mode", choices=MODES, help="how a guest is held still, instead of the configured way")
    parser.add_argument("--reader", choices=READERS, help="how memory is read, instead of the configured way")


def configured(args: argparse.Namespace) -> Config:
    """The configuration with what the command line says instead. The process is sealed from here on."""
    softdirty.supported()  # asks /proc/self, which is root's once sealed; the answer is kept
    seal()
    config = load(args.config)
    logging.getLogger("samepaged").setLevel(max(logging.WARNING, logging.getLevelName(config.log.level.upper())))
    scan = {key: value for key in ("mode", "reader") if (value := getattr(args, key)) is not None}
    libvirt = {} if args.connect is None else {"uri": args.connect}
    return config.model_copy(
        update={"scan": config.scan.model_copy(update=scan), "libvirt": config.libvirt.model_copy(update=libvirt)}
    )


def bound_by_drift(args: argparse.Namespace) -> bool:
    """Whether scan.max_drift holds for the scans of a command: not if its options choose a mode, or a reader that has
    one mode only.
    """
    reader = capture.READERS.get(args.reader)
    return args.mode is None and (reader is None or len(reader.modes) > 1)


class Scans:
    """One scan after another, with what makes the next one cheaper; `record` is handed each guest's scan. Where
    `sources` is given, each of them asks whose the pages are. `bound` says whether scan.max_drift holds: not for a mode
    that was chosen on the command line.

    A context manager, which connects to libvirt and recovers what a samepaged before us left suspended. Raises
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
        self._hypervisor = Hypervisor(config.libvirt.uri, stop=stop)
        self._hypervisor.connect()
        key = hash_seed.load(config.hashing.seed, config.state_directory)
        hashing = Hashing(best_hasher(), key, config.scan.thread_count, stop)
        self._guard = GuardClient(config.libvirt.uri, runtime_directory(config.runtime_directory).path, stop)
        self._clocks = Clocks()
        self._clocks.ledger.use(self._guard.directory)
        attribution = None if sources is None else AttributionSchedule(sources)
        # Whoever asks whose the pages are is served by no scan of several instants, unless it is one that they chose.
        instant = sources is not None and config.scan.mode == "auto"
        self._recovery = Recovery(config.runtime_directory, settled=self._clocks.add_settled)
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
            has_open_entry=self._recovery.holds,
        )
        self._scanned: dict[str, ScannedGuest] = {}
        self._running: set[str] = set()

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
        self._scanner.tidy(self._running)  # of the scan before; after the last one there is nothing to keep to
        began = time.monotonic()
        with Progress(sys.stderr) as progress:
            round_ = scan_all(self._hypervisor, self._config, self._scanner, self._names, progress.show)
        self._scanned = round_.scanned
        self._running = set(round_.running) or {one.scan.uuid for one in round_.scanned.values()}
        return report(round_.scanned, round_.skipped, round_.started, time.monotonic() - began)

    def merging(self) -> Merging | None:
        """What KSM has merged of the guests of the last scan; None where the kernel has no KSM."""
        return read_merging(self._scanned)

    def paused(self) -> dict[str, PausedTime]:
        """How long the guests of the last scan were suspended, by name."""
        return paused_times(self._clocks.ledger, {one.scan.uuid: name for name, one in self._scanned.items()})

    def answers(self, *, names: bool) -> dict[str, AttributionReport]:
        """Where the sharing of the guests of the last scan comes from, by domain."""
        return answers_of(self._scanned, names=names)


def interrupted() -> int:
    """Say so, and give the exit status."""
    print("samepaged: interrupted; every guest runs on", file=sys.stderr)
    return INTERRUPTED


def status(scan: HostScan) -> int:
    """Say what was skipped that was not to be, and give the exit status."""
    unintended = [skipped for skipped in scan.skipped if not skipped.reason.intended]
    for skipped in unintended:
        print(f"samepaged: skipped: {skipped.message}", file=sys.stderr)
    return 1 if unintended else 0
