"""The figures of a run: one line each, in pytest's summary and in a file."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Final

from bench.row import Row, line
from tests.chaos.scale import FULL

__all__ = ["LINES", "at_most"]

DIRECTORY: Final = Path(os.environ.get("SAMEPAGED_CHAOS_RESULTS") or Path(__file__).parents[2] / ".cache" / "chaos")

LINES: Final[list[str]] = []
"""The figures of this run, for the summary."""


def at_most(limit: float | None, name: str, value: float, unit: str) -> None:
    """Record a figure, replacing an older one of its name, and fail if it exceeds `limit` (None: record only)."""
    row = Row(name=name, value=value, unit=unit)
    if limit is not None:
        row["at_most"] = limit
    LINES.append(line(row))
    path = DIRECTORY / ("results.json" if FULL else "short.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # against other workers
        file.seek(0)
        rows = json.loads(file.read() or "[]")
        file.truncate(0)
        file.write(json.dumps([other for other in rows if other["name"] != name] + [row], indent=1) + "\n")
    assert limit is None or value <= limit, LINES[-1]
