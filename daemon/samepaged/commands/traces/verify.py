"""The command `samepaged traces verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.commands import interface
from samepaged.commands.arguments import add_place
from samepaged.commands.traces.files import report_unusable, usable_files
from samepaged.errors import TraceError
from samepaged.traces import read
from samepaged.traces.attribution_file import read_beside_traces

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command(interface.Command):
    """Read every row of every trace, and verify the checksums in the file."""

    help = "verify the checksums of traces"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        add_place(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Verify the files. Return 1 if a file is unusable."""
        failures: list[TraceError] = []
        whole = owned = 0
        for file in usable_files(args.place, failures):
            try:
                whole += len(read(file.path))
                owned += len(list(read_beside_traces([file])))
            except TraceError as error:
                failures.append(error)
        with_owners = f", {owned} of them with owners" if owned else ""
        intact = "1 trace is intact" if whole == 1 else f"{whole} traces are intact"
        print(f"{intact}{with_owners}")
        return report_unusable(failures)
