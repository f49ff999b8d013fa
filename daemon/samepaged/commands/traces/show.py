"""The command `samepaged traces show`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from samepaged.commands import interface
from samepaged.commands.traces.files import description, report_unusable, usable_files

if TYPE_CHECKING:
    import argparse

    from samepaged.errors import TraceError

__all__ = ["Command"]


class Command(interface.Command):
    """Print the metadata of the traces in a file, as JSON."""

    help = "print the metadata of a trace file"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        parser.add_argument("file", metavar="FILE", help="trace file")

    def run(self, args: argparse.Namespace) -> int:
        """Print an object for each trace of the file. Return 1 if the file is unusable."""
        failures: list[TraceError] = []
        files = list(usable_files(args.file, failures))
        descriptions = [description(file, about) for file in files for about in file.traces]
        for one in descriptions:
            print(json.dumps(one, indent=2))
        return report_unusable(failures)
