"""Run of one cell from boot to its last trace; messages on the guest's console trigger the scans."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Protocol

import libvirt

from experiments.guest import console_messages, domain_xml
from tests.support.vm.steps import LabError

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from experiments.guest import Boot
    from experiments.matrix import Cell

__all__ = ["FieldError", "Outcome", "Place", "Tracer", "outcomes", "run_cell"]

POLL_SECONDS: Final = 0.5


class FieldError(LabError):
    """A cell failed; the message is for users."""


class Tracer(Protocol):
    """Callable that writes a trace of one running guest into a directory, with `sources` including page attribution."""

    def __call__(self, domain: str, directory: Path, *, sources: bool) -> None:
        """Raises FieldError if no trace was written."""


@dataclass(frozen=True)
class Outcome:
    """Result of a completed cell: seconds until its load was done, traces during the load, and its notes."""

    name: str
    seconds: float
    marks: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Directories of the study's results: below `root`, `cells/NAME/` and `traces/SET/`."""

    root: Path

    def cell(self, name: str) -> Path:
        """Return the directory with console and result of one cell."""
        return self.root / "cells" / name

    def traces(self, kind: str) -> Path:
        """Return the directory of a set of traces, as read by `samepaged study`."""
        return self.root / "traces" / kind

    def outcome(self, cell: Cell) -> Path:
        """Return the file that records the completion and the result of this cell."""
        return self.cell(cell.name) / "outcome.json"


def outcomes(place: Place) -> list[Outcome]:
    """Return all completed cells, by name."""
    found = [json.loads(path.read_text()) for path in sorted(place.root.glob("cells/*/outcome.json"))]
    return [Outcome(one["name"], one["seconds"], one["marks"], tuple(one["notes"])) for one in found]


def run_cell(cell: Cell, boot: Boot, place: Place, uri: str, tracer: Tracer, stopping: threading.Event) -> Outcome:
    """Boot the guest, trace it whenever its console requests it, and end it. Raises FieldError.

    Only then are its traces added to their sets, so that a set has all of a cell's traces or none.
    """
    own = place.cell(cell.name)
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir(parents=True)
    with contextlib.closing(libvirt.open(uri)) as connection:
        domain = connection.createXML(domain_xml(cell.name, cell.memory, boot, own / "console.log"))
        try:
            outcome = _follow_guest(cell, domain, own, tracer, stopping)
        finally:
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
    for kind in cell.sets:
        shutil.copytree(own / "last", place.traces(kind), dirs_exist_ok=True)
    if cell.trace_set is not None:
        for part in ("marks", "last"):
            if (own / part).exists():
                shutil.copytree(own / part, place.traces(cell.trace_set), dirs_exist_ok=True)
    place.outcome(cell).write_text(json.dumps(asdict(outcome), indent=2) + "\n")
    return outcome


def _follow_guest(
    cell: Cell, domain: libvirt.virDomain, own: Path, tracer: Tracer, stopping: threading.Event
) -> Outcome:
    console, began = own / "console.log", time.monotonic()
    done = marks = 0
    notes: list[str] = []
    while True:
        said = console.read_text(errors="replace") if console.exists() else ""
        for line in console_messages(said)[done:]:
            done += 1
            if line == "done":
                seconds = time.monotonic() - began
                tracer(cell.name, own / "last", sources=cell.attributed)
                return Outcome(cell.name, round(seconds, 1), marks, tuple(notes))
            if not line.startswith("mark"):
                notes.append(line)
            elif cell.trace_set is not None:
                tracer(cell.name, own / "marks", sources=False)
                marks += 1
        if time.monotonic() - began > cell.timeout_seconds:
            raise FieldError(f"{cell.name}: not done after {cell.timeout_seconds:g} s; {_last_words(said, console)}")
        if not _runs(domain):
            raise FieldError(f"{cell.name}: the guest ended; {_last_words(said, console)}")
        if stopping.wait(POLL_SECONDS):
            raise FieldError(f"{cell.name}: stopped before it was done")


def _runs(domain: libvirt.virDomain) -> bool:
    try:
        return bool(domain.isActive())
    except libvirt.libvirtError:  # a transient domain disappears when it ends
        return False


def _last_words(said: str, console: Path) -> str:
    return f"{console} ends with: " + " | ".join(said.split("\n")[-5:])


def overlay(disk: Path, over: Path) -> Path:
    """Create an overlay on an image for the guest's writes."""
    command = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk), str(over))
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise FieldError(f"qemu-img ended with status {done.returncode}: {done.stderr.strip()}")
    return over
