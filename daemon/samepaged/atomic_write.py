"""Files that appear as a whole, or not at all."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["whole_file"]


@contextlib.contextmanager
def whole_file(path: Path, mode: int, *, lasting: bool = True) -> Iterator[Path]:
    """Where to write what is to be at `path`: beside it, under a name with a dot before it, which whoever looks for
    files there passes over. It takes its place with these permissions when the context is left, and is removed where an
    error leaves it. `lasting`: it is on the disk by then. Raises OSError.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield beside
        beside.chmod(mode)
        if lasting:
            with beside.open("rb") as file:
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
