"""The command `samepaged advise`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from samepaged.commands import interface
from samepaged.commands.arguments import add_json, add_scan_arguments
from samepaged.commands.scan_session import ScanSession, bound_by_drift, configured, exit_status, report_interrupted
from samepaged.memory.hashing import Interrupted
from samepaged.report.advice import Advice
from samepaged.service.signals import Signals

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command(interface.Command):
    """Scan guests as `samepaged scan` does, and print the memory that KSM would save on this host, in total and by
    guest, the obstacles on each guest, and the cost.
    """

    help = "estimate the gain and the cost of KSM on this host"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        add_scan_arguments(parser)
        add_json(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Scan and print. Return 1 after an unintended skip."""
        config = configured(args)
        with Signals() as signals:
            try:
                with ScanSession(config, args.domains, signals, bound=bound_by_drift(args)) as scans:
                    scan = scans.scan()
                    advice = Advice.of(scan, scans.merging())
            except Interrupted:
                return report_interrupted()
        print(json.dumps(advice.document(), indent=2) if args.json else advice.text())
        return exit_status(scan)
