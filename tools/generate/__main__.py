"""`python -m tools.generate [--check] [GENERATOR ...]`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from observability.grafana.generator import dashboard_files
from tools.generate import completion, configuration, files, manual, metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

GENERATORS: Final[Mapping[str, Callable[[], Mapping[Path, str | None]]]] = {
    "completion": completion.generated,
    "configuration": configuration.generated,
    "dashboards": dashboard_files.generated,
    "manual": manual.generated,
    "metrics": metrics.generated,
}


def main() -> int:
    """Write the files, or with `--check` return 1 if one is not up to date."""
    parser = argparse.ArgumentParser(prog="python -m tools.generate", allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    parser.add_argument("names", metavar="GENERATOR", nargs="*", help=f"of {', '.join(GENERATORS)} (default: all)")
    args = parser.parse_args()
    if unknown := set(args.names).difference(GENERATORS):
        parser.error(f"unknown generator {min(unknown)}")
    generated: dict[Path, str | None] = {}
    for name in args.names or GENERATORS:
        generated |= GENERATORS[name]()
    if args.check:
        wrong = files.outdated(generated)
        if wrong:
            names = ", ".join(str(path.relative_to(files.TREE)) for path in wrong)
            sys.stderr.write(f"not up to date: {names}; {files.REMEDY}\n")
        return 1 if wrong else 0
    for path in files.write(generated):
        sys.stdout.write(f"{path.relative_to(files.TREE)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
