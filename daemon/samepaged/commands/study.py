"""The command `samepaged study`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.analysis.study.document import document
from samepaged.analysis.study.labels import load_labels
from samepaged.analysis.study.study import MAX_PAIRS, run_study
from samepaged.analysis.study.tables import tables
from samepaged.commands import interface
from samepaged.commands.arguments import add_json, add_out, add_seed, check_seed
from samepaged.errors import UsageError
from samepaged.text_layout import aligned, columns, elided, wrapped
from samepaged.traces.database import check_installed
from samepaged.traces.survey import survey

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from samepaged.analysis.study.table import Table

__all__ = ["Command", "begin_drawing", "formatted_tables"]

_MIN_WIDTH = 72
_MIN_NAME_WIDTH = 16
_MAX_DRAWS = 1_000_000


class Command(interface.Command):
    """Study the traces below a directory and print the tables of the paper, each with the number of its figure: the
    self-sharing of each guest, the inter-VM sharing of every pair and of groups of guests, sharing with and without
    zero pages, by page size and by platform, and its stability over time. For each pair of guests, all pairs of their
    traces are compared, or a random sample of them.
    """

    help = "compute the tables and figures of the paper from traces"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        parser.add_argument("directory", metavar="DIR", help="directory of traces")
        add_json(parser, "print one JSON object instead of tables")
        add_out(parser, "each figure")
        parser.add_argument(
            "--labels",
            metavar="FILE",
            type=Path,
            help="YAML file with the platforms and setups of guests: lists `platforms` and `setups` of items with "
            "`name` and `match`, patterns for guest names",
        )
        parser.add_argument(
            "--pairs",
            metavar="N",
            type=int,
            help=f"maximum number of trace pairs to compare for each pair of guests (default: {MAX_PAIRS})",
        )
        add_seed(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Survey the directory, run the study, and print the result."""
        if args.pairs is not None and not 1 <= args.pairs <= _MAX_DRAWS:
            raise UsageError(f"--pairs {args.pairs} is out of range", f"use a number from 1 to {_MAX_DRAWS}")
        check_seed(args)
        check_installed()
        if args.out is not None:
            begin_drawing(args.out)
        labels = None if args.labels is None else load_labels(args.labels)
        found = run_study(survey(args.directory), max_pairs=args.pairs or MAX_PAIRS, seed=args.seed, labels=labels)
        if args.out is not None:
            from samepaged.analysis.study.report import write  # noqa: PLC0415 - imports matplotlib

            write(found, args.out)
        if args.json:
            print(json.dumps(document(found), indent=2))
        else:
            print("\n".join(formatted_tables(tables(found), shutil.get_terminal_size().columns)))
        return 0


def begin_drawing(directory: Path) -> None:
    """Create the directory for figures. Raises UsageError without matplotlib, TraceError if it cannot be written."""
    try:
        from samepaged.analysis.study.report import prepare  # noqa: PLC0415 - imports matplotlib
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise UsageError(
            "--out needs matplotlib, and it is not installed", "run pip install 'samepaged[study]'"
        ) from None
    prepare(directory)


def formatted_tables(tables: Iterable[Table], width: int) -> Iterator[str]:
    """Yield the tables as lines of at most `width` columns, or more if the numbers are too wide for it."""
    for number, table in enumerate(tables):
        if number:
            yield ""
        yield from wrapped(f"{table.figure}: {table.title}", max(width, _MIN_WIDTH), first="", rest="  ")
        yield from _lines(table, max(width, _MIN_WIDTH))
        if table.note:
            yield from wrapped(table.note, max(width, _MIN_WIDTH), first="", rest="")


def _lines(table: Table, width: int) -> Iterator[str]:
    lines = (table.headings, *table.rows)
    widths = [max(columns(line[at]) for line in lines) for at in range(len(table.headings))]
    if table.names:
        room = width - sum(widths[table.names :]) - 2 * (len(widths) - 1)
        # Longer names use the columns that shorter names leave free.
        for left, at in enumerate(sorted(range(table.names), key=widths.__getitem__)):
            widths[at] = min(widths[at], max(_MIN_NAME_WIDTH, room // (table.names - left)))
            room -= widths[at]
    rows = [[elided(cell, width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    yield from aligned(rows, right=range(table.names, len(widths)))
