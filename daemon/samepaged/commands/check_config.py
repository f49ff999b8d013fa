"""`samepaged check-config FILE`: is this configuration good?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.config import load
from samepaged.errors import ConfigError
from samepaged.escape import printable, valid

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command:
    """Says `FILE: ok`, or raises `ConfigError` with all that is wrong. With --json both are an object."""

    name = "check-config"
    help = "check a configuration file, and name every error with its line and column"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to `parser`."""
        parser.add_argument("file", metavar="FILE", type=Path, help="the configuration, in YAML")
        parser.add_argument("--json", action="store_true", help="print one JSON object, with every problem")

    def run(self, args: argparse.Namespace) -> int:
        """Check `args.file`; the exit status."""
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
