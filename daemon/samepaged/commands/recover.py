"""samepaged recover: resume what a samepaged that died has left suspended."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.config import Config, load
from samepaged.errors import ConfigError
from samepaged.guard.recover import recover
from samepaged.service.signals import Signals

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]

# Seconds for which libvirt is waited for. What is still to be done then, the next start does.
PATIENCE: Final = 45.0


class Command:
    """Resume every guest that a samepaged which died has left suspended. Does nothing while none has."""

    name = "recover"
    help = "resume what a samepaged that died has left suspended"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("--config", metavar="F", type=Path, help="the configuration file (default: none)")
        parser.add_argument("--connect", metavar="URI", help="libvirt's URI, instead of the journal's")

    def run(self, args: argparse.Namespace) -> int:
        """Resume, and return 1 where something is left to do."""
        try:
            directory = load(args.config).runtime_directory
        except ConfigError as error:
            # A configuration that was broken since must not keep a guest suspended.
            directory = Path(os.environ.get("RUNTIME_DIRECTORY") or Config().runtime_directory)
            for problem in error.problems:
                print(f"samepaged: {problem}", file=sys.stderr)
            print(f"samepaged: recovering from {directory}", file=sys.stderr)
        deadline = time.monotonic() + PATIENCE
        with Signals() as signals:
            troubles = recover(directory, lambda: signals.stopping or time.monotonic() > deadline, args.connect)
        return 1 if troubles else 0
