"""Where short-lived files of a run go."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["runtime_directory"]


@contextlib.contextmanager
def runtime_directory(configured: Path) -> Iterator[Path]:
    """The configured directory, made where it can be; else a temporary one, which is removed on leaving."""
    try:
        configured.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=configured):
            pass
    except OSError:
        with tempfile.TemporaryDirectory(prefix="samepaged-") as temporary:
            yield Path(temporary)
    else:
        yield configured
