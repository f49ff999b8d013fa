"""What a command is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Runnable", "quantity", "taken_by"]

Value = TypeVar("Value")


class Runnable(Protocol):
    """A command of the command line."""

    name: str
    help: str

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it, and return the exit status. Raises SamepagedError."""


def taken_by(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """`parse` as the type of an argument: what its ValueError says reaches whoever typed it."""

    def parsed(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def quantity(parse: Callable[[object], Value]) -> Callable[[str], Value]:
    """As `taken_by`, of a quantity as a configuration has it: `512MiB`, or a number."""
    return taken_by(lambda text: parse(int(text) if text.isascii() and text.isdecimal() else text))
