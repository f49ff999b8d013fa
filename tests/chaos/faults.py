"""Faults of a host, each for as long as its context is entered."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import tempfile
from pathlib import Path
from resource import RLIMIT_NOFILE, prlimit
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.waiting import happens, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Clock", "Disk", "NoForks", "clock", "few_descriptors", "small_disk", "task_group"]

HERE: Final = Path(__file__).parent


class Disk:
    """A file system of 256 KiB."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Allocate all free blocks and inodes."""
        filler = self.path / "filler"
        with contextlib.suppress(OSError):
            filler.mkdir(exist_ok=True)
            with (filler / "blocks").open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(512))
        with contextlib.suppress(OSError):
            while True:
                os.close(tempfile.mkstemp(dir=filler)[0])

    def free(self) -> None:
        """Give it back."""
        shutil.rmtree(self.path / "filler")

    def read_only(self) -> None:
        """Nothing can be written any more."""
        subprocess.run(["mount", "-o", "remount,ro", str(self.path)], check=True)

    def writable(self) -> None:
        """It can again."""
        subprocess.run(["mount", "-o", "remount,rw", str(self.path)], check=True)


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Disk]:
    """A small file system at `path`."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=64,mode=700", "chaos", str(path)], check=True)
    try:
        yield Disk(path)
    finally:
        # lazily: files still open in a process of a failed test must not block it
        subprocess.run(["umount", "--lazy", str(path)], check=True)


class Clock:
    """The wall clock of processes that are started with its environment."""

    def __init__(self, path: Path, library: Path) -> None:
        self._path = path
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "SAMEPAGED_CHAOS_CLOCK": str(path)}

    def set(self, ahead: int) -> None:
        """So many seconds before the real time, or behind it."""
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.write(struct.pack("=q", ahead))


def clock(directory: Path) -> Clock:
    """A clock private to the daemon under test."""
    library = directory / "clock.so"
    subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(HERE / "clock.c")], check=True)
    return Clock(directory / "clock", library)


class NoForks:
    """A control group of tasks (Documentation/admin-guide/cgroup-v1/pids.rst; v2 has the same files)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # to put before a command that is to run in the group
        self.before = ["sh", "-c", f'echo $$ > "{path}/cgroup.procs" && exec "$@"', "sh"]

    @property
    def tasks(self) -> int:
        """The processes and threads that are in it."""
        return int((self.path / "pids.current").read_text())

    @contextlib.contextmanager
    def failing(self, most: int = 0) -> Iterator[None]:
        """Limit tasks to `most`: at the limit, clone(2) fails with EAGAIN for processes and threads."""
        limit = self.path / "pids.max"
        limit.write_text(str(most))
        try:
            yield
        finally:
            limit.write_text("max")


def _remove(group: Path) -> None:
    """Remove a control group as soon as its last process has ended, and see to it that they do."""

    def removed() -> bool:
        with contextlib.suppress(OSError):
            group.rmdir()
        return not group.exists()

    if not happens(removed, 10, every=0.05):
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        wait_for(removed, 10, f"{group} is empty")


@contextlib.contextmanager
def task_group() -> Iterator[NoForks]:
    """A control group for a daemon. Skips the test if this machine does not allow one."""
    for above in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")):
        path = above / f"samepaged-chaos-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            if (path / "pids.max").exists():
                yield NoForks(path)
                return
        finally:
            _remove(path)
    pytest.skip("no control group with the pids controller can be made here")


@contextlib.contextmanager
def few_descriptors(pid: int, count: int) -> Iterator[None]:
    """The process may open no file above `count` descriptors."""
    before = prlimit(pid, RLIMIT_NOFILE)
    prlimit(pid, RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            prlimit(pid, RLIMIT_NOFILE, before)
