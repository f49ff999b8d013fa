"""Where short-lived files of a run go: the journal, and the FIFO of a dump."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from samepaged.errors import SamepagedError
from samepaged.os_errors import exhausted, no_resources

__all__ = ["RuntimeDirectory", "candidate_directories", "runtime_directory"]


@dataclass(frozen=True)
class RuntimeDirectory:
    """Where files can be made. `fallback_reason` says why it is not the configured directory; empty where it is."""

    path: Path
    fallback_reason: str


def candidate_directories(configured: Path) -> list[Path]:
    """Where a run's files may lie, in order: the configured directory, then those that take its place where it cannot
    be used. What a run left is looked for in all of them.
    """
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    others = [Path(own) / "samepaged"] if own.startswith("/") else []
    with contextlib.suppress(FileNotFoundError):  # no directory for temporary files can be written
        others.append(Path(tempfile.gettempdir()) / f"samepaged-{os.geteuid()}")
    return [configured, *others]


def runtime_directory(configured: Path) -> RuntimeDirectory:
    """The first of the places in which files can be made. Raises SamepagedError where there is none."""
    troubles: list[str] = []
    for path in candidate_directories(configured):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path != configured:
                _check_owner(path)
            with tempfile.TemporaryFile(dir=path, buffering=0) as file:
                file.write(bytes(512))  # a disk may have an inode left, and no block
                return RuntimeDirectory(
                    path, f"no file can be made in {', nor in '.join(troubles)}" if troubles else ""
                )
        except OSError as error:
            if exhausted(error):  # the same everywhere: another directory would not help
                raise no_resources(f"a file in {path}", error) from error
            troubles.append(f"{path} ({error.strerror or error})")
    raise SamepagedError(f"no file can be made in {', nor in '.join(troubles)}", "make room, or set runtime_directory")


def _check_owner(path: Path) -> None:
    # In a directory that all may write to, somebody else may have been quicker.
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(f"it is not a directory of this user's alone: {path}")
