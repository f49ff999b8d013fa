"""What a command is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["INTERRUPTED", "Runnable", "quantity", "sample", "taken_by"]

Value = TypeVar("Value")

MOST_SAMPLED: Final = 1 << 16
INTERRUPTED: Final = 130  # 128 + SIGINT, as a shell reports it


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


def sample(text: str) -> int:
    """The N of a sample of 1/N of the contents, as the type of an argument."""
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MOST_SAMPLED)) else 0
    if value.bit_count() != 1 or value > MOST_SAMPLED:
        raise argparse.ArgumentTypeError(
            f"a sample is 1/N for N a power of two up to {MOST_SAMPLED}, not {text!r}; use 256, for one"
        )
    return value
