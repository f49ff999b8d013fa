"""Trace files that a command writes: `--traces DIR`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from samepaged.errors import SamepagedError
from samepaged.scan.snapshot import GuestAttribution
from samepaged.scan.trace_recorder import write_owners, write_trace
from samepaged.traces.database import check_installed

if TYPE_CHECKING:
    from pathlib import Path

    from samepaged.attribution.report import AttributionReport
    from samepaged.config import Config
    from samepaged.scan.trace_recorder import Record

__all__ = ["TraceOutput"]


class TraceOutput:
    """Writes the trace of each guest between two guests' scans, so that no guest is suspended during disk writes.
    `failed`: whether a trace could not be written.
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
            self._report_failure("trace", error)

    def owners(self, report: AttributionReport, scanned_at: float) -> None:
        """Write the page owners beside a trace. `scanned_at`: start of its scan, in seconds since the epoch."""
        try:
            write_owners(GuestAttribution(report, scanned_at), self._host, self._directory)
        except (SamepagedError, MemoryError) as error:
            self._report_failure("page owners", error)

    def _report_failure(self, content: str, error: Exception) -> None:
        self.failed = True
        print(f"samepaged: cannot write the {content}: {error or 'out of memory'}", file=sys.stderr)
