"""The command `samepaged traces prune`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.commands import interface
from samepaged.commands.arguments import quantity
from samepaged.config import quantities
from samepaged.errors import TraceError, UsageError
from samepaged.escape import printable
from samepaged.traces import TraceStore

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command(interface.Command):
    """Remove old traces, and print their paths. At least one of the two options is required."""

    help = "remove old traces"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        age, most = quantity(quantities.duration), quantity(quantities.size)
        parser.add_argument("--max-age", metavar="AGE", type=age, help="remove traces older than this: 7d, 12h")
        parser.add_argument(
            "--max-bytes",
            metavar="SIZE",
            type=most,
            help="then remove the oldest traces until the total size is at most this: 10GiB",
        )
        parser.add_argument("directory", metavar="DIR", type=Path, help="directory of traces")

    def run(self, args: argparse.Namespace) -> int:
        """Remove traces, and print the path of each."""
        if args.max_age is None and args.max_bytes is None:
            raise UsageError("traces prune needs --max-age or --max-bytes", "use for example --max-age 30d")
        if not args.directory.is_dir():
            raise TraceError(args.directory, "is not a directory", "use the value of traces.directory")
        for path in TraceStore(args.directory).prune(time.time(), max_age=args.max_age, max_bytes=args.max_bytes):
            print(printable(str(path)))
        return 0
