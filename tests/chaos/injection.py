"""The control block of inject.c: which call fails, and how many there were."""

from __future__ import annotations

import mmap
import struct
import subprocess
from enum import IntEnum
from pathlib import Path
from typing import Final

__all__ = ["Injection", "Kind", "build"]

HERE: Final = Path(__file__).parent
# pid, kind, fail_at, failed; then the calls of each kind.
HEADER: Final = struct.Struct("=4q")
COUNT: Final = struct.Struct("=q")


class Kind(IntEnum):
    """The calls that fail together, in the order of inject.c."""

    OPEN = 0
    SOCKET = 1
    MMAP = 2
    DESCRIPTOR = 3
    THREAD = 4
    DIRECTORY = 5


class Injection:
    """The control block in the file at `path`."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._block = mmap.mmap(file.fileno(), 0)

    def arm(self, pid: int, kind: Kind, fail_at: int) -> None:
        """Make call number `fail_at` of this kind fail, in process `pid` or the children of `-pid`. 0: none."""
        HEADER.pack_into(self._block, 0, 0, 0, 0, 0)  # no process counts meanwhile
        for other in Kind:
            COUNT.pack_into(self._block, HEADER.size + other * COUNT.size, 0)
        HEADER.pack_into(self._block, 0, pid, kind, fail_at, 0)

    def disarm(self) -> bool:
        """Let no call fail from here on. Whether one has failed."""
        _, _, _, failed = HEADER.unpack_from(self._block)
        HEADER.pack_into(self._block, 0, 0, 0, 0, 0)
        return bool(failed)

    def calls(self, kind: Kind) -> int:
        """Calls of this kind since it was armed."""
        count: int = COUNT.unpack_from(self._block, HEADER.size + kind * COUNT.size)[0]
        return count


def build(directory: Path) -> dict[str, str]:
    """Compile the library, and return the environment of a process that is to load it."""
    library, block = directory / "inject.so", directory / "inject"
    command = ["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(HERE / "inject.c"), "-ldl"]
    subprocess.run(command, check=True)
    block.write_bytes(bytes(HEADER.size + len(Kind) * COUNT.size))
    return {"LD_PRELOAD": str(library), "SAMEPAGED_CHAOS_INJECT": str(block)}
