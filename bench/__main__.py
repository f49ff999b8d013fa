"""`python -m bench [PART …]`: measure, print a table, and write bench/results.json."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bench.row import line

if TYPE_CHECKING:
    from bench.row import Row

PARTS = ("hashing", "pauses", "analysis", "traces", "study", "precopy", "placement", "fleet", "sources", "modules")
RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    parts = sys.argv[1:] or PARTS
    found: list[Row] = []
    for part in parts:
        for row in import_module(f"bench.{part}").rows():
            print(line(row), flush=True)
            found.append(row)
    RESULTS.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
