"""The command `samepaged traces ls`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from samepaged.commands import interface
from samepaged.commands.arguments import add_json, add_place
from samepaged.commands.traces.files import description, report_unusable, usable_files
from samepaged.formatting import size
from samepaged.text_layout import aligned
from samepaged.traces import utc

if TYPE_CHECKING:
    import argparse

    from samepaged.errors import TraceError
    from samepaged.traces import TraceFile, TraceInfo

__all__ = ["Command"]

HEADINGS: Final = ("scanned", "host", "guest", "memory", "distinct", "self-sharing", "zero", "mode", "file")


class Command(interface.Command):
    """List traces. Damaged files, and files that are not traces, are reported on standard error."""

    help = "list traces"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        add_json(parser, "print one JSON object instead of a table")
        add_place(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Print a line for each trace. Return 1 if a file is unusable."""
        failures: list[TraceError] = []
        rows = [(file, about) for file in usable_files(args.place, failures) for about in file.traces]
        rows.sort(key=lambda row: (row[1].host, row[1].domain, row[1].scanned_at))
        if args.json:
            print(json.dumps({"schema": 1, "traces": [description(*row) for row in rows]}, indent=2))
        elif rows:
            print("\n".join(aligned([HEADINGS, *(_cells(*row) for row in rows)], right=(3, 4, 5, 6, 8))))
        return report_unusable(failures)


def _cells(file: TraceFile, about: TraceInfo) -> tuple[str, ...]:
    def pages(count: int) -> str:
        return size(count * about.page_size)

    return (
        utc(about.scanned_at),
        about.host,
        about.domain,
        pages(about.memory_pages),
        pages(about.distinct_pages),
        pages(about.duplicate_pages),
        pages(about.zero_pages),
        about.mode if file.sample == 1 else f"{about.mode}, 1/{file.sample}",
        size(file.size),
    )
