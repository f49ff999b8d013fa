"""Tracing with samepaged: `samepaged scan --traces` of one guest, or `samepaged sources --traces`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Final

from experiments.cell_run import FieldError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PAGE_SIZES", "SEED", "Samepaged", "samepaged", "write_config"]

# In addition to 4 KiB. The paper's Fig. 10 goes from 10 KiB down to 1.7 KiB; here only divisors of a page are useful.
PAGE_SIZES: Final = ("1KiB", "2KiB", "8KiB", "16KiB", "64KiB", "2MiB")
# Not a secret: the guests contain only Debian's and our data.
SEED: Final = 0x5EED
TIMEOUT_SECONDS: Final = 300.0


def write_config(directory: Path, uri: str, page_sizes: tuple[str, ...] = PAGE_SIZES) -> Path:
    """Write a configuration with exact scans at one instant, as in the paper (section 3.2). JSON is YAML."""
    state, runtime = directory / "state", directory / "run"
    for path in (state, runtime):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    content = {
        "libvirt": {"uri": uri},
        # Guests of the study may stay suspended for long, because they serve no users, and the machine may be busy.
        "scan": {"mode": "snapshot", "max_pause": "60s", "page_sizes": list(page_sizes)},
        "hashing": {"seed": SEED},
        # The duration does not matter here either; it depends on the machine's load.
        "sources": {"time_limit": "300s"},
        "traces": {"host": "field"},
        "state_directory": str(state),
        "runtime_directory": str(runtime),
    }
    path = directory / "config.yaml"
    path.write_text(json.dumps(content, indent=2) + "\n")
    path.chmod(0o600)
    return path


def samepaged(*words: str | Path) -> str:
    """Return the standard output of a samepaged command. Raises FieldError with its error output if it fails."""
    command = [sys.executable, "-m", "samepaged", *map(str, words)]
    try:
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise FieldError(f"{command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        said = " | ".join(done.stderr.splitlines()[-5:])
        raise FieldError(f"samepaged {words[0]} ended with status {done.returncode}: {said}")
    return done.stdout


class Samepaged:
    """Traces guests, one at a time: each scan first resumes a guest that an earlier scan left suspended."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._turn = threading.Lock()

    def __call__(self, domain: str, directory: Path, *, sources: bool) -> None:
        """Scan one guest into `directory`; with `sources`, including page attribution."""
        command, kept = ("sources", "sources.jsonl") if sources else ("scan", "scans.jsonl")
        directory.mkdir(parents=True, exist_ok=True)
        with self._turn:
            said = samepaged(command, "--json", "--traces", directory, "--config", self._config, domain)
        with (directory.parent / kept).open("a") as file:
            file.write(json.dumps(json.loads(said)) + "\n")
