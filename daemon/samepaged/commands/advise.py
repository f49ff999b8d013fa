"""samepaged advise: would KSM pay here, for whom, what stands in its way, and what would it cost?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from samepaged.commands.on_demand import Scans, add_arguments, bound_by_drift, configured, interrupted, status
from samepaged.memory.hashing import Interrupted
from samepaged.report.advice import Advice
from samepaged.service.signals import Signals

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command:
    """Scan every guest once, or the named ones, and say what merging their memory (KSM) would gain and cost."""

    name = "advise"
    help = "say what merging memory (KSM) would gain here, and what it would cost"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        add_arguments(parser)
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")

    def run(self, args: argparse.Namespace) -> int:
        """Scan, print, and return 1 where a guest was skipped that was not to be."""
        config = configured(args)
        with Signals() as signals:
            try:
                with Scans(config, args.domains, signals, bound=bound_by_drift(args)) as scans:
                    scan = scans.scan()
                    advice = Advice.of(scan, scans.merging())
            except Interrupted:
                return interrupted()
        print(json.dumps(advice.document(), indent=2) if args.json else advice.text())
        return status(scan)
