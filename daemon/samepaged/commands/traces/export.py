"""The command `samepaged traces export`."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.commands import interface
from samepaged.commands.arguments import add_place, sample
from samepaged.errors import TraceError
from samepaged.traces import guest_key, newest_traces, read, survey
from samepaged.traces.parquet import write

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command(interface.Command):
    """Write traces into one file, which `samepaged study` and `samepaged fleet` read like a directory of traces."""

    help = "write traces into one file, whole or as a sample"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        parser.add_argument(
            "--into", metavar="FILE", type=Path, required=True, help="file to write; it must not exist yet"
        )
        parser.add_argument(
            "--sample",
            metavar="N",
            type=sample,
            default=1,
            help="export only the lowest 1/N of the hash space; N is a power of two (default: %(default)s). A sample "
            "keeps the number of copies of each content, and samples of several hosts select the same contents",
        )
        parser.add_argument("--newest", action="store_true", help="export only the newest trace of each guest")
        parser.add_argument(
            "--host", metavar="PATTERN", default="*", help="export only traces of matching hosts (default: %(default)s)"
        )
        parser.add_argument(
            "--domain",
            metavar="PATTERN",
            default="*",
            help="export only traces of matching guests (default: %(default)s)",
        )
        add_place(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Write the file. Raises TraceError."""
        if args.into.exists():
            raise TraceError(args.into, "already exists", "remove it, or use another file name")
        files = survey(args.place)
        rows = newest_traces(files) if args.newest else [(file, about) for file in files for about in file.traces]
        wanted = {
            (guest_key(about), about.scanned_at)
            for _, about in rows
            if fnmatch.fnmatchcase(about.host, args.host) and fnmatch.fnmatchcase(about.domain, args.domain)
        }
        found = [
            trace.sampled(args.sample)
            for file in files
            if any((guest_key(about), about.scanned_at) in wanted for about in file.traces)
            for trace in read(file.path)
            if (guest_key(trace.info), trace.info.scanned_at) in wanted
        ]
        if not found:
            raise TraceError(
                args.place,
                "has no matching traces",
                "list the traces with `samepaged traces ls`, and correct the patterns",
            )
        write(args.into, found)
        print(f"{len(found)} traces, {sum(len(trace.hashes) for trace in found)} contents: {args.into}")
        return 0
