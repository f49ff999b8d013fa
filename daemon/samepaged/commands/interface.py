"""The interface of a command of the command line."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

__all__ = ["INTERRUPTED", "Command", "CommandGroup", "add_commands"]

INTERRUPTED: Final = 130  # 128 + SIGINT, the exit status in a shell


class _Named:
    """Name and help line of a command. `--help` prints the docstring of the class as the description.

    The default name is the module's, with hyphens: `check_config` is `check-config`.
    """

    name: ClassVar[str]
    help: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Set `name` if the class does not."""
        cls.name = cls.__dict__.get("name", cls.__module__.rpartition(".")[2].replace("_", "-"))


class Command(_Named, ABC):
    """A command with arguments."""

    @abstractmethod
    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""

    @abstractmethod
    def run(self, args: argparse.Namespace) -> int:
        """Run the command with the parsed arguments. Return the exit status."""


class CommandGroup(_Named):
    """A command with subcommands, in the order of `--help`."""

    commands: ClassVar[tuple[Command, ...]]


def add_commands(parser: argparse.ArgumentParser, commands: Iterable[Command | CommandGroup]) -> None:
    """Add a subcommand to `parser` for each of `commands`. `run` of the parsed arguments is the command's method."""
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        subparser = subparsers.add_parser(
            command.name, help=command.help, description=inspect.getdoc(command), allow_abbrev=False
        )
        if isinstance(command, CommandGroup):
            add_commands(subparser, command.commands)
        else:
            command.prepare_parser(subparser)
            subparser.set_defaults(run=command.run)
