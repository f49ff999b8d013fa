"""The command `samepaged check-config`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.commands import interface
from samepaged.commands.arguments import add_json
from samepaged.config import load
from samepaged.errors import ConfigError
from samepaged.escape import printable, valid

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command(interface.Command):
    """Check a configuration file, and print every error with its line and column."""

    help = "check a configuration file, and print every error with its line and column"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        parser.add_argument("file", metavar="FILE", type=Path, help="configuration file, in YAML")
        add_json(parser, "print one JSON object with every problem instead of lines")

    def run(self, args: argparse.Namespace) -> int:
        """Print `FILE: ok`, or raise ConfigError with every problem. With --json, print an object in both cases."""
        problems: tuple[str, ...] = ()
        try:
            load(args.file)
        except ConfigError as error:
            if not args.json:
                raise
            problems = error.problems
        if args.json:
            print(json.dumps({"schema": 1, "file": valid(str(args.file)), "ok": not problems, "problems": problems}))
        else:
            print(f"{printable(str(args.file))}: ok")
        return ConfigError.exit_status if problems else 0
