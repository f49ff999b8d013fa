"""Helpers of building and booting: run programs, and print progress lines."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["LabError", "need", "run", "say"]

# A plain `su` leaves /usr/sbin out of the path.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(Exception):
    """The lab cannot be built or booted; the message is for the user."""


def say(line: str) -> None:
    """Print `line` immediately, because the next step takes a while."""
    print(f"lab: {line}", flush=True)  # progress of a command-line program


def need(programs: Mapping[str, str]) -> None:
    """Raise LabError unless all of these programs are installed. Maps each program to its Debian package."""
    missing = [package for program, package in programs.items() if shutil.which(program, path=PATH) is None]
    if missing:
        raise LabError(f"missing packages; run as root: apt-get install --no-install-recommends {' '.join(missing)}")


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Return the standard output of a program. Raises LabError with the last lines of its output if it fails."""
    done = subprocess.run(
        command, check=False, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise LabError(f"{command[0]} ended with status {done.returncode}:\n{said}")
    return done.stdout
