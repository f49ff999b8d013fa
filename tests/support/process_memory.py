"""Search for bytes in the memory of a process, as root or a debugger can."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)")
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Mapping:
    """One mapping of a process; `flags` as in proc(5): `lo` is locked, `dd` not dumped, `dc` not copied by fork."""

    start: int
    end: int
    permissions: str
    name: str
    flags: frozenset[str]

    @property
    def secluded(self) -> bool:
        """Whether the content reaches neither a core dump nor swap nor a child process."""
        return {"lo", "dd", "dc"} <= self.flags

    @property
    def program(self) -> bool:
        """Whether the mapping is a program's code or constants, which are never written."""
        return self.name.startswith("/") and self.permissions in {"r--p", "r-xp"}


def mappings(pid: int) -> list[Mapping]:
    found = []
    header: re.Match[str] | None = None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        header = HEADER.fullmatch(line) or header
        if line.startswith("VmFlags:"):
            assert header is not None
            start, end, permissions, name = header.groups()
            found.append(Mapping(int(start, 16), int(end, 16), permissions, name, frozenset(line.split()[1:])))
    return found


def holders(pid: int, needles: Sequence[bytes], among: Sequence[Mapping] | None = None) -> list[Mapping]:
    """Return the mappings of a process that contain any of the needles."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123 - unbuffered: absent parts are skipped
        return [one for one in among or mappings(pid) if not one.program and _holds(memory.fileno(), one, needles)]


def _holds(memory: int, mapping: Mapping, needles: Sequence[bytes]) -> bool:
    if mapping.permissions.startswith("-"):  # readable all the same, but reading would populate it
        return False
    overlap = max(map(len, needles)) - 1
    before = b""
    for start in range(mapping.start, mapping.end, READ_BYTES):
        try:
            piece = before + os.pread(memory, min(READ_BYTES, mapping.end - start), start)
        except OSError:  # a page of the kernel, or past the end of a file
            before = b""
            continue
        if any(needle in piece for needle in needles):
            return True
        before = piece[-overlap:]
    return False


@contextlib.contextmanager
def standing(pid: int) -> Iterator[None]:
    """Stop all threads of a process."""
    os.kill(pid, signal.SIGSTOP)
    try:
        tasks = Path(f"/proc/{pid}/task")
        wait_for(lambda: all(map(_stands, tasks.iterdir())), 10, f"process {pid} stands still", every=0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _stands(task: Path) -> bool:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0] in "TZX"
    except (FileNotFoundError, ProcessLookupError):  # this thread has ended meanwhile
        return True
