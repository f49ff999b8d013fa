"""A server for a test: started, ready, and stopped."""

from __future__ import annotations

import contextlib
import subprocess
import urllib.request
from typing import TYPE_CHECKING

from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["answering"]


@contextlib.contextmanager
def answering(command: Sequence[str], url: str, log: Path) -> Iterator[None]:
    """Run a server that answers at `url` within 30 s. It is stopped on exit. Its output goes to the file `log`."""

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return True
        assert process.poll() is None, log.read_text()
        return False

    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            wait_for(answers, 30, log.read_text, every=0.1)
            yield
        finally:
            process.terminate()
            process.wait(20)
