"""`python -m tests.fuzz [--inputs N] [TARGET …]`: run each target in its own process, and print one line for each.

`--input FILE TARGET` runs one input again, and ends with its traceback if it is a finding.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.fuzz import engine
from tests.fuzz.target import ACCEPTED, Outcomes

HERE: Final = Path(__file__).parent
TARGETS: Final = tuple(sorted(path.stem for path in (HERE / "targets").glob("[a-z]*.py")))
CACHE: Final = HERE.parents[1] / ".cache" / "fuzz"
LINE: Final = "{:<14} {:>9} {:>8} {:>9} {:>9}  {}"
# Number of last lines of a traceback that are printed.
TRACEBACK_LINES: Final = 12


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", metavar="TARGET", nargs="*", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many for each target (%(default)s)")
    parser.add_argument("--input", type=Path, help="try this file only")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; use {', '.join(TARGETS)}")
    return arguments


def _here(name: str, inputs: int) -> None:
    target = engine.load(f"tests.fuzz.targets.{name}")
    engine.run(engine.Trial(Outcomes(target), inputs, CACHE / name, time.monotonic()))


def _apart(name: str, inputs: int) -> bool:
    """Run a target in its own process, print its line, and return whether it has no findings."""
    directory = CACHE / name
    (directory / "findings").mkdir(parents=True, exist_ok=True)
    (directory / "outcomes.json").unlink(missing_ok=True)
    before = set((directory / "findings").iterdir())
    command = [sys.executable, "-m", "tests.fuzz", "--here", "--inputs", str(inputs), name]
    log = directory / "log"
    with log.open("wb") as said:
        status = subprocess.run(command, stdout=said, stderr=said, check=False).returncode
    try:
        found = json.loads((directory / "outcomes.json").read_text())
    except OSError:
        found = {"inputs": 0, "seconds": 0.0, "outcomes": {}}
    outcomes, total = found["outcomes"], max(found["inputs"], 1)
    accepted = outcomes.pop(ACCEPTED, 0) / total
    refused = ", ".join(f"{kind} {count / total:.1%}" for kind, count in sorted(outcomes.items(), key=lambda o: -o[1]))
    findings = sorted(set((directory / "findings").iterdir()) - before)
    good = status == 0 and not findings and found["inputs"] >= inputs
    text = log.read_text(errors="replace")
    print(
        LINE.format(
            name,
            found["inputs"],
            f"{found['seconds']:.0f}",
            "0" if good else max(len(findings), 1),
            f"{accepted:.1%}",
            refused + _reached(text),
        ),
        flush=True,
    )
    if not good:
        print(*text.splitlines()[-TRACEBACK_LINES:], f"exit status {status}; all of it: {log}", sep="\n")
        for finding in findings:
            print(f"again: {sys.executable} -m tests.fuzz --input {finding} {name}")
    return good


def _reached(log: str) -> str:
    """Return the number of reached branches in libFuzzer's last line, as text."""
    reached = re.findall(r" cov: (\d+) ", log)
    return f"; {reached[-1]} branches" if reached else ""


def main() -> int:
    arguments = _arguments()
    targets = arguments.targets or TARGETS
    if arguments.input is not None:
        for name in targets:
            outcomes = Outcomes(engine.load(f"tests.fuzz.targets.{name}"))
            outcomes.give(arguments.input.read_bytes())
            print(name, *outcomes.counts)
        return 0
    if arguments.here:
        _here(targets[0], arguments.inputs)
        return 0
    os.nice(10)
    print(f"inputs are made {'by atheris, guided by coverage' if engine.GUIDED else 'by chance: atheris is missing'}")
    print(LINE.format("target", "inputs", "seconds", "findings", "accepted", "refused"))
    results = [_apart(name, arguments.inputs) for name in targets]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
