"""Where short-lived files of a run go."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from samepaged.errors import SamepagedError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["runtime_directory", "sweep"]


@contextlib.contextmanager
def runtime_directory(configured: Path) -> Iterator[Path]:
    """The configured directory, made where it can be; else a temporary one, which is removed on leaving. Raises
    SamepagedError where there is neither.
    """
    try:
        configured.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=configured):
            pass
    except OSError as unusable:
        try:
            temporary = tempfile.TemporaryDirectory(prefix="samepaged-")
        except OSError as error:
            raise SamepagedError(
                f"no file can be made in {configured} ({unusable.strerror}), nor elsewhere ({error.strerror}); "
                "make room, or set runtime_directory"
            ) from error
        with temporary as path:
            yield Path(path)
    else:
        yield configured


def sweep(directory: Path) -> None:
    """Remove what dumps of a samepaged that died have left. Their FIFO is opened once: libvirtd may be waiting for a
    reader, with a job on the domain for as long as none comes.
    """
    for left in directory.glob("dump-*-*"):
        pid = left.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                os.close(os.open(left / "memory", os.O_RDONLY | os.O_NONBLOCK))
            shutil.rmtree(left, ignore_errors=True)
