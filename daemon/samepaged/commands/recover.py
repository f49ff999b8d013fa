"""The command `samepaged recover`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.commands import interface
from samepaged.commands.arguments import add_config, add_connect
from samepaged.config import Config, load
from samepaged.errors import ConfigError, UsageError
from samepaged.guard.recover import recover
from samepaged.service.signals import Signals

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]

# A libvirt call waits up to 30 s for a busy domain. An entry that is still open after this time stays in the journal.
WAIT_SECONDS: Final = 45.0
MAX_WAIT_SECONDS: Final = 86_400


class Command(interface.Command):
    """Resume every guest that an ended samepaged has left suspended, according to the journal, and wait until none of
    its suspend calls can be pending in libvirt. Without an open journal entry, do nothing. The exit status is 1 if an
    entry is still open at the end: the guest may be suspended, or may become suspended when its QEMU responds again.
    """

    help = "resume guests that an ended samepaged has left suspended"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        add_config(parser, ", for runtime_directory; if it is invalid, the default directory is used")
        add_connect(parser, "the URI in the journal")
        parser.add_argument(
            "--wait",
            metavar="SECONDS",
            type=float,
            default=WAIT_SECONDS,
            help="time limit, after which an entry stays open (default: %(default)g)",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Settle the journal entries. Return 1 if an entry is still open."""
        if not 0 <= args.wait <= MAX_WAIT_SECONDS:
            raise UsageError(
                f"--wait {args.wait:g} is not between 0 and {MAX_WAIT_SECONDS} seconds (one day)", "use for example 45"
            )
        try:
            directory = load(args.config).runtime_directory
        except ConfigError as error:
            # An invalid configuration must not prevent the resume of a guest.
            directory = Path(os.environ.get("RUNTIME_DIRECTORY") or Config().runtime_directory)
            for problem in error.problems:
                print(f"samepaged: {problem}", file=sys.stderr)
            print(f"samepaged: recovering from {directory}", file=sys.stderr)
        deadline = time.monotonic() + args.wait
        with Signals() as signals:
            troubles = recover(directory, lambda: signals.stopping or time.monotonic() > deadline, args.connect)
        return 1 if troubles else 0
