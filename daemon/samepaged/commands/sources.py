"""The command `samepaged sources`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Final

from samepaged.attribution.document import attribution_document
from samepaged.commands import interface
from samepaged.commands.arguments import add_json, add_scan_arguments, add_traces
from samepaged.commands.scan_session import ScanSession, bound_by_drift, configured, exit_status, report_interrupted
from samepaged.commands.trace_output import TraceOutput
from samepaged.escape import printable
from samepaged.memory.hashing import Interrupted
from samepaged.report.attribution import attribution_text
from samepaged.service.signals import Signals

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]

# Longest pause in seconds without a configuration file. The first prediction for a guest is several times too long.
MAX_PAUSE_SECONDS: Final = 2.0


class Command(interface.Command):
    """Scan the named guests once and attribute the sharing of each guest to kinds of pages, processes and files, and
    the most copied pages to their owners, according to the guest's own Linux kernel. Sharing between guests covers the
    named guests only. A guest is suspended for at most scan.max_pause, or 2 seconds without --config. Unless --mode
    snapshot is given, a guest with a longer predicted pause is skipped. Attribution needs the mode snapshot or precopy
    and the reader process.
    """

    help = "attribute a guest's sharing to processes, files and kinds of pages"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        add_scan_arguments(parser, with_domains=True)
        add_json(parser, "print JSON: one object, or with several guests one object that holds all of them")
        parser.add_argument(
            "--no-names",
            action="store_true",
            help="report kinds of pages only; names of processes and files do not leave the worker process",
        )
        add_traces(parser, ", with its page owners for samepaged study")

    def run(self, args: argparse.Namespace) -> int:
        """Scan and print. Return 1 after an unintended skip, or if the result of a guest is missing."""
        config = configured(args)
        if args.config is None:
            # Without a configuration file, allow a longer pause: the user named the guests.
            longer = config.scan.model_copy(update={"max_pause": max(config.scan.max_pause, MAX_PAUSE_SECONDS)})
            config = config.model_copy(update={"scan": longer})
        # sources.names limits stored results; this command prints names unless --no-names is given.
        asked = config.sources.model_copy(update={"enabled": True, "every": 1, "names": not args.no_names})
        keeping = None if args.traces is None else TraceOutput(config, args.traces)
        with Signals() as signals:
            try:
                with ScanSession(
                    config, args.domains, signals, keeping, sources=asked, bound=bound_by_drift(args)
                ) as scans:
                    scan = scans.scan()
                    answers = scans.attribution_reports(names=not args.no_names)
            except Interrupted:
                return report_interrupted()
        if keeping is not None:
            began = {one.name: one.started for one in scan.scans}
            for name, one in answers.items():
                keeping.owners(one, began[name])
        if args.json:
            documents = [attribution_document(one) for one in answers.values()]
            if len(args.domains) > 1:
                print(json.dumps({"domains": documents}, indent=2))
            elif documents:
                print(json.dumps(documents[0], indent=2))
        elif answers:
            print("\n\n".join(attribution_text(one) for one in answers.values()))
        for skipped in scan.skipped:
            if skipped.reason.intended:  # reported because the user named the guest
                print(f"samepaged: skipped: {printable(skipped.message)}", file=sys.stderr)
        unanswered = [one.name for one in scan.scans if one.name not in answers]
        for name in unanswered:
            print(
                f"samepaged: {printable(name)}: page attribution exceeds sources.memory_limit together with the other "
                "guests'; scan the guest alone, or raise sources.memory_limit",
                file=sys.stderr,
            )
        return max(exit_status(scan), 1 if unanswered or (keeping is not None and keeping.failed) else 0)
