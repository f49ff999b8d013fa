"""Precopy and rescans, measured in the lab host: they need a kernel with soft-dirty bits (docs/develop/vm.md)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.row import Row

__all__ = ["rows"]

FIGURES = Path(".cache/lab/last/figures.json")


def rows() -> Iterator[Row]:
    """The figures of this part; a few minutes."""
    FIGURES.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.support.vm", "--memory", "4096", "--", "-s", "tests/vm/test_figures.py"]
    subprocess.run(command, check=True, env={**os.environ, "SAMEPAGED_LAB_FIGURES": "1"})
    for pages, found in json.loads(FIGURES.read_text()).items():
        yield from _rows(pages, found)


def _rows(pages: str, found: dict[str, Any]) -> Iterator[Row]:
    snapshot = found["snapshot pause"]
    first = found["precopy pause, first scan"] / snapshot
    again = found["precopy pause, rescans"] / snapshot
    idle = found["idle rescan bytes"] / found["memory bytes"]
    busy = "1 GiB guest that writes 1% of its pages a second"
    wanted: dict[str, float] = {} if pages == "THP" else {"at_most": 1 / 20}
    yield {"name": f"pause of precopy ÷ snapshot, {busy}, {pages}", "value": first, "unit": "ratio", **wanted}  # type: ignore[typeddict-item] # bounds by name
    yield {"name": f"the same, rescans, {pages}", "value": again, "unit": "ratio", **wanted}  # type: ignore[typeddict-item] # bounds by name
    if pages == "THP":
        first = found["precopy pause, first scan, scaled rate"] / snapshot
        again = found["precopy pause, rescans, scaled rate"] / snapshot
        scaled = f"{pages}, writing slowed down as much as reading is by emulation (÷ 32)"
        yield {"name": f"pause of precopy ÷ snapshot, {scaled}", "value": first, "unit": "ratio"}
        yield {"name": f"the same, rescans, {scaled}", "value": again, "unit": "ratio"}
    yield {"name": f"bytes read by an idle rescan ÷ RAM, {pages}", "value": idle, "unit": "ratio", "at_most": 0.02}
