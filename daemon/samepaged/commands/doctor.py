"""The command `samepaged doctor`."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from samepaged.commands import interface
from samepaged.commands.arguments import add_config, add_connect, add_json
from samepaged.doctor.checks import run_checks
from samepaged.doctor.report import document, text

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command(interface.Command):
    """Check the configuration, libvirt, privileges, the kernel, the systemd units and every guest, and print a remedy
    for each problem. The checks do not suspend or read guests, and do not change the host. Exit status: 0 without
    failures, 1 after a failure, 2 if the configuration is invalid, 3 if libvirt cannot be reached.
    """

    help = "check the host's setup, and print a remedy for each problem"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        add_config(parser)
        add_connect(parser)
        add_json(parser)
        parser.add_argument(
            "--verify-layout",
            action="store_true",
            help="read the RAM layout of each guest from the QEMU monitor; libvirt then marks the guests as tainted",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Run the checks, print them, and return the exit status."""
        found = run_checks(args.config, args.connect, verify_layout=args.verify_layout)
        if args.json:
            print(json.dumps(document(found.checks, found.guests), indent=2))
        else:
            print(text(found.checks, coloured=_coloured()))
        return found.exit_status


def _coloured() -> bool:
    """Return whether stdout is a terminal with colours, and NO_COLOR (no-color.org) is not set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
