"""samepaged scan: one scan, shown; or one after another."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.commands.scanning import Scans, add_arguments, configured, interrupted, status
from samepaged.errors import SamepagedError, UsageError
from samepaged.export.document import document
from samepaged.export.table import table
from samepaged.memory.hashing import Interrupted
from samepaged.service.recorder import write_trace
from samepaged.service.signals import Signals
from samepaged.traces.database import check_installed

if TYPE_CHECKING:
    import argparse

    from samepaged.config import Config
    from samepaged.export.snapshot import HostScan
    from samepaged.service.recorder import Record

__all__ = ["Command"]

# Erase the screen and begin at its top (ECMA-48: ED, CUP).
CLEAR: Final = "\x1b[2J\x1b[H"


class Command:
    """Scan every guest once, or the named ones, and print what they could share."""

    name = "scan"
    help = "scan guests once and print what they could share"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        add_arguments(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        parser.add_argument(
            "--watch",
            metavar="SECONDS",
            type=float,
            help="scan again every so many seconds, at least 1, until interrupted; with --json, an object a line",
        )
        parser.add_argument("--traces", metavar="DIR", type=Path, help="leave a trace of each guest in this directory")

    def run(self, args: argparse.Namespace) -> int:
        """Scan, print, and return 1 where a guest was skipped that was not to be."""
        if args.watch is not None and not 1 <= args.watch <= 365 * 86_400:
            raise UsageError(f"--watch {args.watch:g} is no number of seconds from 1 to a year; use 10, for one")
        config = configured(args)
        kept = None if args.traces is None else _Kept(config, args.traces)
        with Signals() as signals:
            try:
                with Scans(config, args.domains, signals, kept) as scans:
                    while True:
                        due = time.monotonic() + (args.watch or 0)
                        scan = scans.scan()
                        _show(scan, args)
                        found = max(status(scan), 1 if kept is not None and kept.failed else 0)
                        if args.watch is None:
                            return found
                        while not signals.stopping and (left := due - time.monotonic()) > 0:
                            signals.wait(left)
                        if signals.stopping:
                            return found
            except Interrupted:
                return interrupted()


class _Kept:
    """Writes a trace of each guest, between the scans of two guests: nobody waits suspended for the disk."""

    def __init__(self, config: Config, directory: Path) -> None:
        check_installed()
        self._host, self._directory = config.traces.host_name, directory
        self.failed = False

    def __call__(self, record: Record) -> None:
        try:
            write_trace(record, self._host, self._directory)
        except (SamepagedError, MemoryError) as error:
            self.failed = True
            print(f"samepaged: no trace: {error or 'memory ran out'}", file=sys.stderr)


def _show(scan: HostScan, args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(document(scan), indent=None if args.watch else 2), flush=True)
    else:
        again = args.watch is not None and sys.stdout.isatty()
        print(f"{CLEAR if again else ''}{table(scan)}", flush=True)
