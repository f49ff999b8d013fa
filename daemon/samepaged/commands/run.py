"""The command `samepaged run`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.commands import interface
from samepaged.commands.arguments import add_config
from samepaged.config import load
from samepaged.memory import softdirty
from samepaged.privileges import seal
from samepaged.service.loop import Service
from samepaged.service.signals import Signals
from samepaged.web.process import SystemdService

if TYPE_CHECKING:
    import argparse

__all__ = ["Command"]


class Command(interface.Command):
    """Scan all guests at intervals and export Prometheus metrics, until a signal arrives. The systemd service runs
    this command. For each guest and scan it logs, at level info, the number and length of the suspensions.
    """

    help = "scan guests at intervals and export Prometheus metrics"

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments of the command."""
        add_config(parser, "; {} is a complete configuration", required=True)
        parser.add_argument(
            "--web-socket",
            metavar="PATH",
            type=Path,
            help="feed the web process that listens on this Unix socket, instead of starting one",
        )

    def run(self, args: argparse.Namespace) -> int:
        """Run the daemon."""
        softdirty.supported()  # reads /proc/self, which belongs to root after seal(); the result is cached
        seal()
        config = load(args.config)
        logging.getLogger("samepaged").setLevel(config.log.level.upper())
        with Signals() as signals:
            Service(config, args.config, signals, args.web_socket and SystemdService(args.web_socket)).run()
        return 0
