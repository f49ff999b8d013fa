"""What a command is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import argparse

__all__ = ["Runnable"]


class Runnable(Protocol):
    """A command of the command line."""

    name: str
    help: str

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it, and return the exit status. Raises SamepagedError."""
