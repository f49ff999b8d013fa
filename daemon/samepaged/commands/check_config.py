"""`samepaged check-config FILE`: is this configuration good?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.config import load
from samepaged.config.problem import one_line

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command:
    """Says `FILE: ok`, or raises `ConfigError` with all that is wrong."""

    name = "check-config"
    help = "check a configuration file, and name every error with its line and column"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to `parser`."""
        parser.add_argument("file", metavar="FILE", type=Path, help="the configuration, in YAML")

    def run(self, args: argparse.Namespace) -> int:
        """Check `args.file`; the exit status."""
        load(args.file)
        print(f"{one_line(str(args.file))}: ok")
        return 0
