"""samepaged scan: one scan, shown."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged import seed
from samepaged.config import load
from samepaged.export.document import document
from samepaged.export.table import Progress, table
from samepaged.hypervisor.connection import Hypervisor
from samepaged.hypervisor.guarded import Guarded
from samepaged.memory import softdirty
from samepaged.memory.capture import Hashing
from samepaged.memory.hashing import Interrupted, best
from samepaged.privileges import seal
from samepaged.service.directories import runtime_directory
from samepaged.service.recovery import recover
from samepaged.service.round import report, scan_all
from samepaged.service.scanner import Scanner
from samepaged.service.signals import Signals

if TYPE_CHECKING:
    import argparse

    from samepaged.config import Config
    from samepaged.export.snapshot import HostScan

__all__ = ["Command"]

MODES: Final = ("auto", "snapshot", "precopy", "sliced", "live")
READERS: Final = ("auto", "process", "dump")
INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell reports it


class Command:
    """Scan every guest once, or the named ones, and print what they could share."""

    name = "scan"
    help = "scan guests once and print what they could share"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("domains", metavar="DOMAIN", nargs="*", help="names or UUIDs (default: all that run)")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        parser.add_argument("--config", metavar="F", type=Path, help="the configuration file (default: none)")
        parser.add_argument("--connect", metavar="URI", help="libvirt's URI, instead of the configured one")
        parser.add_argument("--mode", choices=MODES, help="how a guest is held still, instead of the configured way")
        parser.add_argument("--reader", choices=READERS, help="how memory is read, instead of the configured way")

    def run(self, args: argparse.Namespace) -> int:
        """Scan, print, and return 1 where a guest was skipped that was not to be."""
        softdirty.supported()  # asks /proc/self, which is root's once sealed; the answer is kept
        seal()
        config = _overridden(load(args.config), args)
        logging.getLogger("samepaged").setLevel(max(logging.WARNING, logging.getLevelName(config.log.level.upper())))
        with Signals() as signals:
            try:
                scan = _scan(config, args.domains, signals)
            except Interrupted:
                print("samepaged: interrupted; every guest runs on", file=sys.stderr)
                return INTERRUPTED
        print(json.dumps(document(scan), indent=2) if args.json else table(scan))
        unintended = [skipped for skipped in scan.skipped if not skipped.reason.intended]
        for skipped in unintended:
            print(f"samepaged: skipped: {skipped.message}", file=sys.stderr)
        return 1 if unintended else 0


def _overridden(config: Config, args: argparse.Namespace) -> Config:
    """The configuration with what the command line says instead."""
    scan = {key: value for key in ("mode", "reader") if (value := getattr(args, key)) is not None}
    libvirt = {} if args.connect is None else {"uri": args.connect}
    return config.model_copy(
        update={"scan": config.scan.model_copy(update=scan), "libvirt": config.libvirt.model_copy(update=libvirt)}
    )


def _scan(config: Config, names: list[str], signals: Signals) -> HostScan:
    hypervisor = Hypervisor(config.libvirt.uri, stop=lambda: signals.stopping)
    hypervisor.connect()
    key = seed.load(config.hashing.seed, config.state_directory)
    hashing = Hashing(best(), key, config.scan.thread_count, lambda: signals.stopping)
    began = time.monotonic()
    place = runtime_directory(config.runtime_directory)
    guard = Guarded(config.libvirt.uri, place.path, lambda: signals.stopping)
    try:
        recover(config.runtime_directory, lambda: True)
        with Progress(sys.stderr) as progress:
            scanner = Scanner(hypervisor, guard, config, hashing, {})
            round_ = scan_all(hypervisor, config, scanner, names, progress.show)
    finally:
        guard.close()
        hypervisor.close()
    return report(round_.scanned, round_.skipped, round_.started, time.monotonic() - began)
