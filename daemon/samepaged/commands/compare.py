"""samepaged compare: what sharing is lost from one set of traces to another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.analysis.study.comparison import compare
from samepaged.commands.study import begin_drawing, printed
from samepaged.errors import UsageError
from samepaged.escape import valid
from samepaged.traces.database import check_installed
from samepaged.traces.survey import survey

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command:
    """Compare the sharing of two sets of traces, such as of guests without and with address space layout randomisation:
    by how much total sharing, self-sharing and inter-VM sharing are reduced from A to B.
    """

    name = "compare"
    help = "what sharing is lost from one set of traces to another"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("first", metavar="A", help="the traces to begin with")
        parser.add_argument("second", metavar="B", help="the traces to compare with them")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        parser.add_argument("--out", metavar="D", type=Path, help="write the figure, an HTML report and JSON into D")
        parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the random choice of traces (0)")

    def run(self, args: argparse.Namespace) -> int:
        """Survey both, compare, and show it."""
        if args.seed < 0:
            raise UsageError(f"--seed {args.seed} is negative", "give 0 or more")
        check_installed()
        if args.out is not None:
            begin_drawing(args.out)
        found = compare(
            (valid(args.first), valid(args.second)), (survey(args.first), survey(args.second)), seed=args.seed
        )
        if args.out is not None:
            from samepaged.analysis.study.report import write_comparison  # noqa: PLC0415 - matplotlib, where it is needed

            write_comparison(found, args.out)
        if args.json:
            print(json.dumps(found.document(), indent=2))
        else:
            print("\n".join(printed([found.table()], shutil.get_terminal_size().columns)))
        return 0
