"""Atomic writes: a file appears complete, or not at all."""

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
    """Yield a temporary path in the directory of `path`, with a leading dot, so that other readers of the directory
    ignore it. On exit, the temporary file gets the permissions `mode` and replaces `path`; after an error it is
    removed. With `lasting`, it is synced to the disk first. Raises OSError.
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
