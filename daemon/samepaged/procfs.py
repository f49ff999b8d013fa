"""The state and start time of a process, from /proc (proc_pid_stat(5)), and the id of the host's boot."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

__all__ = ["BOOT_ID", "PROC", "boot_id", "has_ended", "is_alive", "names_living", "start_time"]

PROC: Final = Path("/proc")
BOOT_ID: Final = PROC / "sys/kernel/random/boot_id"
# Indices of fields 3 and 22 of the line, counted after the command's name.
STATE: Final = 0
START_TIME: Final = 19
# States of a process that has ended and was not waited for.
ENDED: Final = frozenset({b"Z", b"X", b"x"})


@cache
def boot_id() -> str:
    """The kernel's id of this boot of the host (random(4)). Raises OSError."""
    return BOOT_ID.read_text().strip()


def _fields(pid: int, proc: Path) -> list[bytes]:
    """The fields after the command's name; empty if the process does not exist. Raises OSError if they cannot be read
    for another cause, such as EMFILE.
    """
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    _, bracket, rest = stat.rpartition(b")")
    return rest.split() if bracket else []


def start_time(pid: int, proc: Path = PROC) -> int | None:
    """Start time of a process in clock ticks since boot, which distinguishes it from a later process with the same pid.
    None if the process does not exist. Raises OSError if it cannot be read.
    """
    try:
        return int(_fields(pid, proc)[START_TIME])
    except (ValueError, IndexError):
        return None


def has_ended(pid: int, proc: Path = PROC) -> bool:
    """Whether the process does not exist, or has ended and was not waited for. False if /proc cannot be read: resources
    of a process are cleaned up only if its end is certain.
    """
    try:
        fields = _fields(pid, proc)
    except OSError:
        return False
    return not fields or fields[STATE] in ENDED


def is_alive(pid: int, started: int, proc: Path = PROC) -> bool:
    """Whether the process with this pid and start time runs. True if /proc cannot be read, as in `has_ended`."""
    try:
        fields = _fields(pid, proc)
    except OSError:
        return True
    return len(fields) > START_TIME and fields[STATE] not in ENDED and fields[START_TIME] == b"%d" % started


def names_living(pid: str, started: str, *, proc: Path = PROC) -> bool:
    """`is_alive` for a pid and a start time as text from a file or a file name. Text that is not a number names no
    process.
    """
    return pid.isdecimal() and started.isdecimal() and is_alive(int(pid), int(started), proc)
