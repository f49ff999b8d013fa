"""The command `samepaged fleet sharing`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from samepaged.analysis.fleet.counting import analyse_fleet
from samepaged.analysis.fleet.duckdb_engine import duckdb_engine
from samepaged.analysis.fleet.report import document_lines, text_lines
from samepaged.commands import interface
from samepaged.commands.arguments import add_json, add_place, sample
from samepaged.errors import UsageError

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]

LOCAL_MASTER: Final = "local[*]"


class Command(interface.Command):
    """Report the duplicate memory of a fleet and the sharing between every two hosts, from the newest trace of each
    guest.
    """

    help = "report the duplicate memory of a fleet, and the sharing between every two hosts"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        add_json(parser, "print one JSON object, with every pair of hosts that share memory, instead of tables")
        parser.add_argument(
            "--engine",
            choices=("duckdb", "spark"),
            default="duckdb",
            help="query engine (default: %(default)s). duckdb runs within this process, spark is Apache Spark and "
            "needs pyspark and Java. Both compute the same result",
        )
        parser.add_argument(
            "--master",
            metavar="URL",
            help=f"Spark master, with --engine spark (default: {LOCAL_MASTER}, all processors of this machine)",
        )
        parser.add_argument(
            "--sample",
            metavar="N",
            type=sample,
            default=1,
            help="count only the lowest 1/N of the hash space, and report the error of the scaled result; N is a power "
            "of two (default: %(default)s). Traces that are samples keep their own N",
        )
        add_place(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Count and print. Raises TraceError and UsageError."""
        if args.engine == "spark":
            from samepaged.analysis.fleet.spark_engine import spark_engine  # noqa: PLC0415 - imports PySpark

            found = analyse_fleet(args.place, lambda: spark_engine(args.master or LOCAL_MASTER), sample=args.sample)
        else:
            if args.master is not None:
                raise UsageError("--master applies to Spark only", "add --engine spark")
            found = analyse_fleet(args.place, duckdb_engine, sample=args.sample)
        if args.json:
            sys.stdout.writelines(document_lines(found))
        else:
            print("\n".join(text_lines(found)))
        return 0
