"""The QEMU process of a domain: its pid, verified by its command line and start time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.errors import GuestError, Reason
from samepaged.os_errors import exhausted, no_resources, process_error
from samepaged.procfs import PROC, start_time

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ProcessTable", "QemuProcess"]

# Minimum age in seconds of a list of processes that is read again for a domain that is not in it.
REFRESH_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class QemuProcess:
    """A pid, and the start time (clock ticks since boot), which a later process with the same pid does not share."""

    pid: int
    start_time: int

    def check(self) -> None:
        """Raise GuestError if the process has ended since."""
        try:
            started = start_time(self.pid)
        except OSError as error:
            raise process_error(error, self.pid, f"/proc/{self.pid}/stat", "run as root") from error
        if started != self.start_time:
            raise GuestError(Reason.GONE, f"process {self.pid} ended while its memory was read")


def _pid_files(name: str) -> Iterator[Path]:
    yield Path("/run/libvirt/qemu") / f"{name}.pid"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        yield Path(runtime) / "libvirt/qemu/run" / f"{name}.pid"


class ProcessTable:
    """Finds QEMU processes by their domain's UUID: by libvirt's pid file, or else in a list of all processes.

    The service's user may not read pid files. So the list is read at the first domain that needs it, and kept: use one
    table for one round of scans. It is read again only if it is outdated. `proc` is the mount point of procfs.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._pids: dict[str, list[int]] = {}
        self._listed_at: float | None = None

    def find(self, name: str, uuid: str) -> QemuProcess:
        """The process that was started with the domain's UUID. Raises GuestError."""
        for path in _pid_files(name):
            pid = _pid(path)
            found = None if pid is None else self._verified(pid, uuid)
            if found is not None:
                return found
        found = self._listed_process(uuid)
        if found is None and self._outdated(uuid):
            self._list()
            found = self._listed_process(uuid)
        if found is not None:
            return found
        raise GuestError(
            Reason.NO_PID,
            f"no process of domain {name!r} is visible",
            "run samepaged on the host itself, in its pid namespace; if /proc is mounted with hidepid, run it as root "
            "or in the group of the option gid=",
            names_domain=True,
        )

    def _listed_process(self, uuid: str) -> QemuProcess | None:
        verified = (self._verified(pid, uuid) for pid in self._pids.get(uuid, ()))
        return next((process for process in verified if process is not None), None)

    def _outdated(self, uuid: str) -> bool:
        """Whether a new list may have a process that this one lacks."""
        return self._listed_at is None or uuid in self._pids or time.monotonic() - self._listed_at >= REFRESH_SECONDS

    def _list(self) -> None:
        self._pids = {}
        try:
            pids = [int(entry.name) for entry in self._proc.iterdir() if entry.name.isdecimal()]
        except OSError as error:
            raise no_resources(str(self._proc), error) from error
        for pid in pids:
            for uuid in self._uuids(pid):
                self._pids.setdefault(uuid, []).append(pid)
        self._listed_at = time.monotonic()

    def _verified(self, pid: int, uuid: str) -> QemuProcess | None:
        """The process, if it has the UUID on its command line."""
        try:
            started = start_time(pid, self._proc)  # first: a later process with this pid does not match it
        except OSError as error:
            if exhausted(error):
                raise no_resources(f"{self._proc}/{pid}/stat", error) from error
            return None
        return QemuProcess(pid, started) if started is not None and uuid in self._uuids(pid) else None

    def _uuids(self, pid: int) -> list[str]:
        path = self._proc / str(pid) / "cmdline"
        try:
            words = path.read_bytes().split(b"\0")
        except OSError as error:
            if exhausted(error):
                raise no_resources(str(path), error) from error
            return []  # it has ended, or hidepid hides it
        return [value.decode("ascii", "replace") for option, value in pairwise(words) if option == b"-uuid"]


def _pid(path: Path) -> int | None:
    """The content of a pid file, if it exists and this user may read it."""
    try:
        return int(path.read_text())
    except ValueError:
        return None
    except OSError as error:
        if exhausted(error):
            raise no_resources(str(path), error) from error
        return None
