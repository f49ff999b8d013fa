"""The samepaged command line, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Samepaged"]


class Samepaged:
    """The commands, with a configuration and directories below `root`, for the libvirtd at `uri`."""

    def __init__(self, uri: str, root: Path) -> None:
        self.uri = uri
        self.root = root
        self.config = root / "config.yaml"
        self.configure("")

    def configure(self, more: str) -> Path:
        self.config.write_text(
            f"libvirt: {{uri: '{self.uri}'}}\nstate_directory: {self.root}/state\nruntime_directory: {self.root}/run\n"
            f"export: {{listen: '127.0.0.1:0'}}\n{more}\n"
        )
        return self.config

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "samepaged", *words]

    def __call__(self, *words: str, expect: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=120, check=False, **options)
        assert expect is None or done.returncode == expect, (done.returncode, done.stdout[-2000:], done.stderr[-4000:])
        return done

    def scan(self, *words: str, expect: int = 0) -> dict[str, Any]:
        done = self("scan", "--json", "--config", str(self.config), *words, expect=expect)
        result: dict[str, Any] = json.loads(done.stdout)
        return result
