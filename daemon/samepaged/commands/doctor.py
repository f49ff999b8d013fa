"""samepaged doctor: will it work here, and if not, what helps?"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.doctor.checks import examination
from samepaged.doctor.report import document, text

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command:
    """Check the configuration, libvirt, rights, the kernel, the units and every guest. No guest is suspended or read,
    and nothing is changed. Exit status: 0 all is well, perhaps with warnings; 1 a failure; 2 the configuration cannot
    be used; 3 libvirt cannot be reached.
    """

    name = "doctor"
    help = "check whether everything is in place, and say what helps where it is not"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""
        parser.add_argument("--config", metavar="F", type=Path, help="the configuration file (default: none)")
        parser.add_argument("--connect", metavar="URI", help="libvirt's URI, instead of the configured one")
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
        parser.add_argument(
            "--verify-layout",
            action="store_true",
            help="ask QEMU's monitor where each guest's RAM lies; libvirt marks the guests as tainted for that",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Check, print, and return the exit status."""
        found = examination(args.config, args.connect, verify_layout=args.verify_layout)
        if args.json:
            print(json.dumps(document(found.checks, found.guests), indent=2))
        else:
            print(text(found.checks, coloured=_coloured()))
        return found.exit_status


def _coloured() -> bool:
    """Whether the terminal shows colours, and whoever reads it wants them (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
