"""The interface of a command of the command line."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

__all__ = ["INTERRUPTED", "Command", "add_commands"]

INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell reports it


class Command(Protocol):
    """A command, or a group of commands. The docstring of the class is the description in `--help`."""

    name: str
    help: str

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments and set the default `run`: a function from the parsed arguments to the exit status."""


def add_commands(parser: argparse.ArgumentParser, commands: Iterable[Command]) -> None:
    """Give `parser` one subcommand for each of `commands`."""
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        subparser = subparsers.add_parser(
            command.name, help=command.help, description=inspect.getdoc(command), allow_abbrev=False
        )
        command.prepare_parser(subparser)
