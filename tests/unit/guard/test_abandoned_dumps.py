from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from samepaged.guard.abandoned_dumps import release

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def ended() -> int:
    """The pid of a process that is no more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def left_by(pid: int, directory: Path) -> Path:
    private = directory / f"dump-{pid}-abc"
    private.mkdir()
    os.mkfifo(private / "memory")
    return private / "memory"


class Writer:
    """Opens a FIFO for writing, as libvirt does, and writes more than fits."""

    def __init__(self, fifo: Path) -> None:
        self._fifo = fifo
        self.error: BaseException | None = None
        self.opening = threading.Event()
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()
        assert self.opening.wait(10)

    def _write(self) -> None:
        self.opening.set()
        try:
            with self._fifo.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 20))
        except OSError as error:
            self.error = error


def test_who_waits_for_a_reader_of_a_dead_one_s_dump_is_let_go(tmp_path: Path, ended: int) -> None:
    fifo = left_by(ended, tmp_path)
    writer = Writer(fifo)
    release(tmp_path)
    writer.thread.join(10)
    assert isinstance(writer.error, BrokenPipeError | FileNotFoundError)
    assert list(tmp_path.iterdir()) == []


def test_a_dump_of_a_living_process_is_left_alone_unless_it_is_said_to_have_ended(tmp_path: Path) -> None:
    fifo = left_by(os.getpid(), tmp_path)
    release(tmp_path)
    assert fifo.exists()
    release(tmp_path, ended=os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_not_waited_for_has_ended(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    left_by(process.pid, tmp_path)
    release(tmp_path)
    assert list(tmp_path.iterdir()) == []
    process.communicate()


def test_what_is_no_dump_stays(tmp_path: Path, ended: int) -> None:
    (tmp_path / "dump-of-mine").mkdir()
    (tmp_path / f"suspended-{ended}-1").touch()
    release(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_directory_without_its_pipe_goes_too(tmp_path: Path, ended: int) -> None:
    left_by(ended, tmp_path).unlink()
    release(tmp_path)
    assert list(tmp_path.iterdir()) == []
