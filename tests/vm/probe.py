"""Probe of a unit's permissions: prints each attempt with "ok" or the name of its error, as JSON on stdout.

A separate program, which tests/vm/test_unit.py starts in the hardened units in place of samepaged.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# By their numbers on x86-64: the C library lacks functions for some of these, and checks the arguments of others.
SYSTEM_CALLS = {
    "ptrace": 101,
    "mount": 165,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "process_vm_writev": 311,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "pidfd_getfd": 438,
}
LOCKED = 32 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def outcome(attempt: Callable[[], object]) -> str:
    """Return "ok", the name of the error, or the exit status of a program."""
    try:
        attempt()
    except subprocess.CalledProcessError as error:
        return f"status {error.returncode}"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "ok"


def system_call(number: int) -> None:
    """Call with arguments that every call rejects: an allowed call succeeds or fails with an error other than EPERM."""
    if _libc.syscall(number, -1, -1, -1, -1, -1, -1) < 0:
        raise OSError(ctypes.get_errno(), "")


def lock_memory() -> None:
    """Lock memory, as the scanner does for guest data."""
    area = mmap.mmap(-1, LOCKED)
    if _libc.mlock(ctypes.addressof(ctypes.c_char.from_buffer(area)), LOCKED) < 0:
        raise OSError(ctypes.get_errno(), "")


def write_back(path: str) -> None:
    """Write the current content of the file again."""
    Path(path).write_text(Path(path).read_text())


def make_file(directory: str) -> None:
    """Create a file and remove it again."""
    path = Path(directory) / "samepaged-probe"
    path.touch()
    path.unlink()


def run_copy(directory: str) -> None:
    """Write a program there and run it."""
    path = Path(directory) / "samepaged-probe-program"
    try:
        shutil.copy("/bin/true", path)
        path.chmod(0o700)
        subprocess.run([path], check=True)
    finally:
        path.unlink(missing_ok=True)


def connect(path: str) -> None:
    """Connect to a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def attempts(words: list[str]) -> dict[str, str]:
    """Make attempts: `read PATH`, `make DIRECTORY`, `run DIRECTORY`, `write PATH`, `connect PATH`, `socket FAMILY`."""
    acts: dict[str, Callable[[str], object]] = {
        "read": lambda path: os.close(os.open(path, os.O_RDONLY)),
        "make": make_file,
        "run": run_copy,
        "write": write_back,
        "connect": connect,
        "socket": lambda family: socket.socket(getattr(socket, family), socket.SOCK_RAW).close(),
        "stream": lambda family: socket.socket(getattr(socket, family)).close(),
    }
    found = {word: outcome(lambda word=word: acts[word.split()[0]](word.split()[1])) for word in words}  # type: ignore[misc] # mypy cannot infer
    found |= {name: outcome(lambda number=number: system_call(number)) for name, number in SYSTEM_CALLS.items()}  # type: ignore[misc] # likewise
    found["lock memory"] = outcome(lock_memory)
    found["memory to write and run"] = outcome(
        lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    )
    return found


if __name__ == "__main__":
    json.dump(attempts(sys.argv[1:]), sys.stdout)
