"""What building and booting are made of: programs that are run, and lines that say what goes on."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["LabError", "need", "run", "say"]

# /usr/sbin is not on the path after a plain `su`.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(Exception):
    """The lab cannot be built or booted; the message is for people."""


def say(line: str) -> None:
    """Print `line` at once: what follows it takes a while."""
    print(f"lab: {line}", flush=True)  # a program that people wait for


def need(programs: Mapping[str, str]) -> None:
    """Raise LabError unless each of these programs is installed; by name, the Debian package that has it."""
    missing = [package for program, package in programs.items() if shutil.which(program, path=PATH) is None]
    if missing:
        raise LabError(f"missing packages; run as root: apt-get install --no-install-recommends {' '.join(missing)}")


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """The standard output of a program. Raises LabError, with the last of what it said, where it fails."""
    done = subprocess.run(
        command, check=False, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise LabError(f"{command[0]} ended with status {done.returncode}:\n{said}")
    return done.stdout
