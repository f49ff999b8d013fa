"""The processes of samepaged, observed from outside: their resources and how they end."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.support.waiting import happens, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GUARD", "WEB", "Family", "Held", "Process", "children", "qemu", "wait_for_child"]

GUARD: Final = "samepaged.guard.server"
WEB: Final = "samepaged.web"
PROC: Final = Path("/proc")
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Held:
    """The resources that a leak would increase."""

    descriptors: int
    threads: int

    def within(self, other: Held) -> bool:
        return self.descriptors <= other.descriptors and self.threads <= other.threads


class Process:
    """A process, identified by a descriptor (pidfd_open(2)): never confused with a later process of the same pid."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def send(self, how: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, how)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def ended(self, timeout: float = 0.0) -> bool:
        """Whether the process has ended, or ends within `timeout` seconds."""
        return bool(select.select([self._descriptor], [], [], timeout)[0])

    @property
    def state(self) -> str:
        """Return the state: `R`, `S`, `T` for stopped and so on (proc_pid_stat(5))."""
        return _stat(self.pid)[0]

    @property
    def held(self) -> Held:
        return Held(_count(self.pid, "fd"), _count(self.pid, "task"))

    @property
    def resident(self) -> int:
        """Return the resident memory in bytes."""
        return int((PROC / str(self.pid) / "statm").read_text().split()[1]) * PAGE


def _stat(pid: int) -> list[str]:
    """Return the fields after the command's name: state, parent, …"""
    return (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()


def _count(pid: int, directory: str) -> int:
    return len(list((PROC / str(pid) / directory).iterdir()))


def _command(pid: int) -> str:
    return (PROC / str(pid) / "cmdline").read_text(errors="replace").replace("\0", " ")


def _pids() -> Iterator[int]:
    yield from [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def children(parent: int, module: str = "") -> list[int]:
    """Return the living children of a process that have `module` in their command lines."""
    found = []
    for pid in _pids():
        with suppress(OSError, IndexError):
            state, above = _stat(pid)[:2]
            if int(above) == parent and state != "Z" and module in _command(pid):
                found.append(pid)
    return found


def wait_for_child(parent: int, module: str, timeout: float = 20) -> Process:
    """Wait for the one child that runs `module`, and return it."""
    (pid,) = wait_for(lambda: children(parent, module), timeout, f"process {parent} has a child {module}")
    return Process(pid)


def qemu(uuid: str) -> Process:
    """Return the process of the domain with this UUID."""
    for pid in _pids():
        with suppress(OSError):
            if f"-uuid {uuid} " in _command(pid):
                return Process(pid)
    raise LookupError(f"no process has -uuid {uuid}")


class Family:
    """The processes of one running daemon, by name: scanner, guard, web."""

    def __init__(self, scanner: int) -> None:
        self.members = {
            "scanner": Process(scanner),
            "guard": wait_for_child(scanner, GUARD),
            "web": wait_for_child(scanner, WEB),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.members.values():
            process.__exit__()

    @property
    def exits(self) -> list[str]:
        """Return the names of the processes that have ended."""
        return [name for name, process in self.members.items() if process.ended()]

    @property
    def held(self) -> dict[str, Held]:
        return {name: process.held for name, process in self.members.items()}

    def leaks(self, before: dict[str, Held], timeout: float = 60) -> dict[str, Held]:
        """Return the resources of the processes that still hold more than `before` after `timeout` seconds."""

        def more() -> dict[str, Held]:
            return {name: held for name, held in self.held.items() if not held.within(before[name])}

        return {} if happens(lambda: not more(), timeout, every=0.1) else more()
