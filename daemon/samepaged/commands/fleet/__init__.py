"""The command `samepaged fleet`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from samepaged.commands.fleet import place, sharing
from samepaged.commands.interface import add_commands

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command:
    """Analyse the page-hash traces of many hosts: their sharing, and a better placement of their guests."""

    name = "fleet"
    help = "analyse the traces of many hosts: sharing, and placement of guests"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the subcommands."""
        add_commands(parser, (sharing.Command(), place.Command()))
