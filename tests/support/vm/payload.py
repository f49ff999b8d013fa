"""The payload of the lab host at each run: the project as wheel and package, its tests, and boot files of nested
guests.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tarfile
from typing import TYPE_CHECKING

from tests.support import images
from tests.support.vm.recipe import FILES, PROJECT, VENV
from tests.support.vm.steps import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["pack"]

# Sources of the wheel, and further files that the tests use.
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "daemon")
TEST_FILES = ("pyproject.toml", "config.example.yaml", "systemd", "tests")
# A disk has whole sectors.
SECTORS = 1 << 20
LEAVE_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so", "build")


def _copy(names: Sequence[str], to: Path) -> None:
    to.mkdir()
    for name in names:
        path = PROJECT / name
        if path.is_dir():
            shutil.copytree(path, to / name, ignore=LEAVE_OUT)
        elif path.exists():
            shutil.copy(path, to / name)


def _wheel(directory: Path, scratch: Path, python: str) -> None:
    """Build the wheel from a copy of the checkout. A build in the checkout would leave files there, and pick up old
    ones.
    """
    source = scratch / "source"
    _copy(SOURCES, source)
    run(python, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "-w", directory, source)


def _package(directory: Path, words: Sequence[str]) -> None:
    """Build the package only if its tests may run: the build takes as long as the host takes to boot."""
    files = [word for word in words if ".py" in word]
    if not files or any("test_package.py" in word and not word.startswith("--ignore") for word in files):
        run(PROJECT / "tools/build-deb", directory)


def pack(disk: Path, scratch: Path, *, python: str, pytest: Sequence[str], patience: int) -> None:
    """Write the disk, a tar. `pytest` are its command-line arguments, `patience` the seconds that it may take."""
    payload = scratch / "payload"
    _copy(TEST_FILES, payload)
    _wheel(payload / "wheel", scratch, python)
    _package(payload / "package", pytest)
    shutil.copy(FILES / "run-tests", payload)
    (payload / "settings").write_text(_settings(pytest, patience))
    _guests(payload / "guests")
    with tarfile.open(disk, "w") as archive:
        archive.add(payload, arcname=".", filter=_for_all)
    with disk.open("r+b") as file:
        file.truncate(-(-disk.stat().st_size // SECTORS) * SECTORS)


def _settings(pytest: Sequence[str], patience: int) -> str:
    """Return the settings that run-tests sources. The lab's own variables are exported to the tests."""
    lines = [f"venv={VENV}", f"patience={patience}", f"pytest=({shlex.join(pytest)})"]
    passed = {name: value for name, value in os.environ.items() if name.startswith("SAMEPAGED_LAB_")}
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(passed.items())]
    return "\n".join(lines) + "\n"


def _guests(directory: Path) -> None:
    """Copy kernel and image of nested guests into `directory`. The host lacks a compiler, so the image is built here.
    It is newer than its source in the payload, so tests.support.images does not build it again there.
    """
    kernel, _ = images.kernel(), images.writer_image()
    directory.mkdir()
    for path in (kernel, images.CACHE / "guest_init"):
        shutil.copy(path, directory)
        (directory / path.name).touch()


def _for_all(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Make an entry owned by root and world-readable, whatever the umask: QEMU and samepaged run as other users."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry
