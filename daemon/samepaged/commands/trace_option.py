"""Traces that a command leaves: `--traces DIR`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.errors import SamepagedError
from samepaged.scan.snapshot import GuestAttribution
from samepaged.scan.trace_recorder import write_owners, write_trace
from samepaged.traces.database import check_installed

if TYPE_CHECKING:
    import argparse

    from samepaged.attribution.report import AttributionReport
    from samepaged.config import Config
    from samepaged.scan.trace_recorder import Record

__all__ = ["Keeping", "add_traces"]


def add_traces(parser: argparse.ArgumentParser) -> None:
    """Where traces are to be left."""
    parser.add_argument("--traces", metavar="DIR", type=Path, help="leave a trace of each guest in this directory")


class Keeping:
    """Writes a trace of each guest, between the scans of two guests: nobody waits suspended for the disk. `failed`:
    whether one could not be written.
    """

    def __init__(self, config: Config, directory: Path) -> None:
        check_installed()
        self._host, self._directory = config.traces.host_name, directory
        self.failed = False

    def __call__(self, record: Record) -> None:
        """Write a trace."""
        try:
            write_trace(record, self._host, self._directory)
        except (SamepagedError, MemoryError) as error:
            self._lost("trace", error)

    def owners(self, answers: AttributionReport, scanned_at: float) -> None:
        """Write the owners of a trace, beside it. `scanned_at` is when its scan began, in seconds of the Unix epoch."""
        try:
            write_owners(GuestAttribution(answers, scanned_at), self._host, self._directory)
        except (SamepagedError, MemoryError) as error:
            self._lost("owners", error)

    def _lost(self, what: str, error: Exception) -> None:
        self.failed = True
        print(f"samepaged: no {what}: {error or 'memory ran out'}", file=sys.stderr)
