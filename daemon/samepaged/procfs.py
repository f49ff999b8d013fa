"""What /proc says about whether a process is still the one that it was (proc_pid_stat(5))."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["has_ended", "is_alive", "names_living", "start_time"]

PROC: Final = Path("/proc")
# Of the fields after the command's name: fields 3 and 22 of the line.
STATE: Final = 0
START_TIME: Final = 19
# What has ended and was not waited for holds its number, and nothing else.
ENDED: Final = frozenset({b"Z", b"X", b"x"})


def _fields(pid: int) -> list[bytes]:
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
        return stat[stat.rindex(b")") + 2 :].split()
    except (OSError, ValueError):
        return []


def start_time(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot: this tells it from a later one of the same pid. None where
    there is none.
    """
    try:
        return int(_fields(pid)[START_TIME])
    except (ValueError, IndexError):
        return None


def has_ended(pid: int) -> bool:
    """Whether there is no such process, or one that has ended and was not waited for."""
    fields = _fields(pid)
    return not fields or fields[STATE] in ENDED


def is_alive(pid: int, started: int) -> bool:
    """Whether the process that was started then still runs."""
    fields = _fields(pid)
    return len(fields) > START_TIME and fields[STATE] not in ENDED and fields[START_TIME] == b"%d" % started


def names_living(pid: str, started: str) -> bool:
    """The same of a pid and a start time as they are written down in a file, or in its name."""
    return pid.isdecimal() and started.isdecimal() and is_alive(int(pid), int(started))
