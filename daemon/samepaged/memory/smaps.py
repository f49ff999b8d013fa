"""A process's mappings, from /proc/PID/smaps (Documentation/filesystems/proc.rst)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from samepaged.errors import GuestError, Reason
from samepaged.os_errors import process_error

__all__ = ["Vma", "parse", "read"]

HEADER: Final = re.compile(
    r"(?P<start>[0-9a-f]{1,16})-(?P<end>[0-9a-f]{1,16}) (?P<perms>[r-][w-][x-][ps]) (?P<offset>[0-9a-f]{1,16}) "
    r"(?P<device>[0-9a-f]{2,8}:[0-9a-f]{2,8}) (?P<inode>[0-9]{1,20})(?: +(?P<path>.*))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Vma:
    """One mapping: addresses in bytes, the file behind it (inode 0: none), and the letters of VmFlags."""

    start: int
    end: int
    perms: str
    offset: int
    device: tuple[int, int]
    inode: int
    path: str
    flags: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def shared(self) -> bool:
        """Whether writes reach the file, and with it other mappings of it."""
        return self.perms[3] == "s"


def _header(line: str) -> Vma | None:
    found = HEADER.fullmatch(line)
    if found is None:
        return None
    major, minor = (int(part, 16) for part in found["device"].split(":"))
    return Vma(
        start=int(found["start"], 16),
        end=int(found["end"], 16),
        perms=found["perms"],
        offset=int(found["offset"], 16),
        device=(major, minor),
        inode=int(found["inode"]),
        path=found["path"] or "",
    )


def parse(text: str) -> list[Vma]:
    """The mappings in a text of smaps (or of maps, which has no flags), in ascending order. Raises GuestError."""
    vmas: list[Vma] = []
    for line in text.split("\n"):
        vma = _header(line)
        if vma is not None:
            if vma.end <= vma.start or (vmas and vma.start < vmas[-1].end):
                raise GuestError(
                    Reason.LAYOUT, f"smaps has mappings out of order: {line[:80]!r}", "use `--reader dump`"
                )
            vmas.append(vma)
        elif line.startswith("VmFlags:") and vmas:
            vmas[-1] = replace(vmas[-1], flags=frozenset(line.split()[1:]))
        elif line and not re.match(r"[A-Za-z_]+:", line):
            raise GuestError(
                Reason.LAYOUT, f"smaps has a line that is no mapping: {line[:80]!r}", "use `--reader dump`"
            )
    return vmas


def read(pid: int) -> list[Vma]:
    """The mappings of a process. Raises GuestError."""
    try:
        # Not read_text, which takes a carriage return for a line's end, too: the kernel lets it stand in a file's name.
        text = Path(f"/proc/{pid}/smaps").read_bytes().decode("utf-8", errors="surrogateescape")
    except OSError as error:
        rights = "run as root or with CAP_SYS_PTRACE, or use `--reader dump`"
        raise process_error(error, pid, f"/proc/{pid}/smaps", rights) from error
    if not text:
        raise GuestError(Reason.GONE, f"process {pid} has ended")
    return parse(text)
