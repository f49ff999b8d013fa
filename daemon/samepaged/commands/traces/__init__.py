"""The command `samepaged traces`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.commands.interface import add_commands
from samepaged.commands.traces import export, import_file, ls, prune, show, verify

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command:
    """List, inspect, verify, prune, export and import page-hash traces."""

    name = "traces"
    help = "list, verify, prune, export and import page-hash traces"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the subcommands."""
        commands = (ls, show, verify, prune, export, import_file)
        add_commands(parser, (module.Command() for module in commands))
