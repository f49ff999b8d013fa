"""The command `samepaged scan`."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Final

from samepaged.commands import interface
from samepaged.commands.arguments import add_json, add_scan_arguments, add_traces
from samepaged.commands.scan_session import ScanSession, bound_by_drift, configured, exit_status, report_interrupted
from samepaged.commands.trace_output import TraceOutput
from samepaged.errors import UsageError
from samepaged.memory.hashing import Interrupted
from samepaged.report.scan_json import document
from samepaged.report.scan_table import table
from samepaged.service.signals import Signals

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from samepaged.drift.ledger import PausedTime
    from samepaged.scan.results import HostScan

__all__ = ["Command"]

# Clear the screen and move the cursor to its top left corner (ECMA-48: ED, CUP).
CLEAR: Final = "\x1b[2J\x1b[H"


class Command(interface.Command):
    """Scan all running guests, or the named ones, and print how much memory they could share."""

    help = "scan guests and print how much memory they could share"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        add_scan_arguments(parser)
        add_json(parser, "print one JSON object instead of a table")
        parser.add_argument(
            "--watch",
            metavar="SECONDS",
            type=float,
            help="repeat the scan at this interval, at least 1 second, until interrupted. With --json, each scan "
            "prints one object on a line of its own",
        )
        add_traces(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Scan and print. Return 1 after an unintended skip."""
        if args.watch is not None and not 1 <= args.watch <= 365 * 86_400:
            raise UsageError(
                f"--watch {args.watch:g} is not between 1 second and 365 days", "use for example 10 (seconds)"
            )
        config = configured(args)
        kept = None if args.traces is None else TraceOutput(config, args.traces)
        with Signals() as signals:
            try:
                with ScanSession(config, args.domains, signals, kept, bound=bound_by_drift(args)) as scans:
                    while True:
                        due = time.monotonic() + (args.watch or 0)
                        scan = scans.scan()
                        _show(scan, scans.paused(), args)
                        found = max(exit_status(scan), 1 if kept is not None and kept.failed else 0)
                        if args.watch is None:
                            return found
                        while not signals.stopping and (left := due - time.monotonic()) > 0:
                            signals.wait(left)
                        if signals.stopping:
                            return found
            except Interrupted:
                return report_interrupted()


def _show(scan: HostScan, paused: Mapping[str, PausedTime], args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(document(scan, paused), indent=None if args.watch else 2), flush=True)
    else:
        again = args.watch is not None and sys.stdout.isatty()
        print(f"{CLEAR if again else ''}{table(scan, paused=paused)}", flush=True)
