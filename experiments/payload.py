"""Load of a guest, as its second disk: a tar, so that a change does not require a new image."""

from __future__ import annotations

import shutil
import tarfile
from typing import TYPE_CHECKING, Final

from experiments.documents import write_documents
from experiments.recipe import FILES

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["pack"]

# A disk consists of whole sectors.
DISK_BYTES: Final = 1 << 20


def pack(disk: Path, scratch: Path) -> Path:
    """Write the disk: files/load/, and the documents for the programs."""
    load = scratch / "load"
    shutil.copytree(FILES / "load", load)
    write_documents(load)
    with tarfile.open(disk, "w") as archive:
        archive.add(load, arcname=".", filter=_for_all)
    with disk.open("r+b") as file:
        file.truncate(-(-disk.stat().st_size // DISK_BYTES) * DISK_BYTES)
    return disk


def _for_all(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return the entry with fixed owner and time, so that every guest has the same disk."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry
