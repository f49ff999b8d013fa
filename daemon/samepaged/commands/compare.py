"""The command `samepaged compare`."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from samepaged.analysis.study.comparison import compare
from samepaged.commands import interface
from samepaged.commands.arguments import add_json, add_out, add_seed, check_seed
from samepaged.commands.study import begin_drawing, formatted_tables
from samepaged.escape import valid
from samepaged.traces.database import check_installed
from samepaged.traces.survey import survey

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command(interface.Command):
    """Compare the sharing of two sets of traces, such as guests without and with address space layout randomisation:
    the reduction of total sharing, self-sharing and inter-VM sharing from A to B. The comparison uses groups with one
    trace of each guest; the traces of a set with a single guest count as traces of different guests.
    """

    help = "compare the sharing of two sets of traces"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        parser.add_argument("first", metavar="A", help="directory of traces")
        parser.add_argument("second", metavar="B", help="directory of traces to compare with A")
        add_json(parser, "print one JSON object instead of a table")
        add_out(parser, "the figure")
        add_seed(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Survey both directories, compare them, and print the result."""
        check_seed(args)
        check_installed()
        if args.out is not None:
            begin_drawing(args.out)
        found = compare(
            (valid(args.first), valid(args.second)), (survey(args.first), survey(args.second)), seed=args.seed
        )
        if args.out is not None:
            from samepaged.analysis.study.report import write_comparison  # noqa: PLC0415 - imports matplotlib

            write_comparison(found, args.out)
        if args.json:
            print(json.dumps(found.document(), indent=2))
        else:
            print("\n".join(formatted_tables([found.table()], shutil.get_terminal_size().columns)))
        return 0
