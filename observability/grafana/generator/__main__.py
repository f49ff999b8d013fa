"""`python -m observability.grafana.generator [--check]`."""

from __future__ import annotations

import argparse
import sys

from observability.grafana.generator.dashboard_files import outdated, write


def main() -> int:
    """0: up to date, or written; 1: `--check` found what is not."""
    parser = argparse.ArgumentParser(prog="python -m observability.grafana.generator", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")
    if not parser.parse_args().check:
        for path in write():
            sys.stdout.write(f"{path}\n")
        return 0
    for path in (wrong := outdated()):
        sys.stderr.write(f"{path} is not what the generator makes: run `make dashboards`\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
