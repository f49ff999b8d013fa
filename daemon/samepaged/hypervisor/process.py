"""The QEMU process of a domain: its pid, found and proved to be that domain's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.errors import GuestError, Reason
from samepaged.procfs import start_time

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["QemuProcess", "find"]

PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class QemuProcess:
    """A pid, and the start time (clock ticks since boot) that tells it from a later process of the same pid."""

    pid: int
    start_time: int

    def check(self) -> None:
        """Raises GuestError where the process has ended meanwhile."""
        if start_time(self.pid) != self.start_time:
            raise GuestError(Reason.GONE, f"process {self.pid} ended while its memory was read")


def _is_domain(pid: int, uuid: str) -> bool:
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(a == b"-uuid" and b == uuid.encode() for a, b in pairwise(words))


def _pid_files(name: str) -> Iterator[Path]:
    yield Path("/run/libvirt/qemu") / f"{name}.pid"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        yield Path(runtime) / "libvirt/qemu/run" / f"{name}.pid"


def _candidates(name: str) -> Iterator[int]:
    """Pids that may be the domain's: from libvirt's pid files, which only root may read, then every process."""
    for path in _pid_files(name):
        try:
            yield int(path.read_text())
        except (OSError, ValueError):
            continue
    yield from [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def find(name: str, uuid: str) -> QemuProcess:
    """The process that was started with the domain's UUID. Raises GuestError."""
    for pid in _candidates(name):
        if _is_domain(pid, uuid):
            started = start_time(pid)
            if started is not None:
                return QemuProcess(pid, started)
    raise GuestError(
        Reason.NO_PID,
        f"no process of domain {name!r} is visible; run samepaged on the host itself, in its pid namespace, "
        "and where /proc is mounted with hidepid, as root or in the group that it names",
    )
