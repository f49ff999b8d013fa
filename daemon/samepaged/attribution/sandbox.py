"""The process that reads a guest's memory: started with nothing, and kept from everything.

It has a socket to the daemon, a copy of some of the guest's pages that it can only read, and limits of memory and time.
No privileges, no files, no network, no other program: if a guest takes it over, it can lie about that guest's pages.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from samepaged import privileges
from samepaged.attribution import seccomp

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Limits", "SandboxedProcess", "confine"]

PROGRAM: Final = ("-m", "samepaged.attribution.worker")
# Of threads that numpy's algebra starts when it is loaded, none is needed, and none may be.
ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
UNPRIVILEGED_USER: Final = "nobody"
NICENESS: Final = 10
# Bytes of address space: for the interpreter and numpy, and for each page of the guest's memory.
BASE_MEMORY_BYTES: Final = 1 << 30
MEMORY_BYTES_PER_PAGE: Final = 512
MAX_FILES: Final = 8
PROT_EXEC: Final = 4

# What Python and numpy need to compute, and to speak through a socket that is open.
ALLOWED_CALLS: Final = (
    *("read", "write", "recvfrom", "sendto", "recvmsg", "sendmsg", "poll", "ppoll", "close"),
    *("brk", "munmap", "mremap", "madvise", "futex", "rt_sigreturn", "rt_sigprocmask", "sigaltstack"),
    *("clock_gettime", "gettimeofday", "getrandom", "sched_yield", "restart_syscall", "exit", "exit_group"),
)
# The same, of memory that is not to be run.
MASKED_CALLS: Final = {"mmap": (2, PROT_EXEC), "mprotect": (2, PROT_EXEC)}
# What may be tried in good faith, such as looking for a module that is imported late.
REFUSED_CALLS: Final = (
    *(
        "open",
        "openat",
        "stat",
        "lstat",
        "fstat",
        "newfstatat",
        "statx",
        "access",
        "faccessat",
        "faccessat2",
        "readlink",
    ),
    *(
        "readlinkat",
        "getcwd",
        "ioctl",
        "fcntl",
        "lseek",
        "getdents64",
        "getpid",
        "gettid",
        "getuid",
        "geteuid",
        "getgid",
    ),
    *("getegid", "rt_sigaction", "sched_getaffinity", "sysinfo", "uname", "prlimit64", "getrusage", "clone", "clone3"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the process may take: seconds of processor time, bytes of memory; and whether it must have a filter."""

    seconds: float
    memory: int
    seccomp: bool = True

    @classmethod
    def of(cls, seconds: float, pages: int, copied: int, *, seccomp: bool) -> Limits:
        """For a guest of so many pages, of which so many may be copied."""
        return cls(seconds, BASE_MEMORY_BYTES + MEMORY_BYTES_PER_PAGE * pages + (copied + 1) * 4096, seccomp)


class SandboxedProcess:
    """A process of `program` (arguments of the interpreter); `file` is the copy of pages of a guest that has so many
    `pages`. Raises OSError.
    """

    def __init__(self, file: int, pages: int, limits: Limits, program: Sequence[str] = PROGRAM) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        words = (theirs.fileno(), file, pages, math.ceil(limits.seconds), limits.memory, int(limits.seccomp))
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", *program, *map(str, words)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), file),
                    cwd="/",
                    env=ENVIRONMENT,
                    start_new_session=True,  # the terminal's Ctrl-C is for the daemon
                )
        except BaseException:
            ours.close()
            raise
        self.socket = ours

    @property
    def pid(self) -> int:
        """The process's."""
        return self._process.pid

    def kill(self) -> None:
        """Let it do nothing any more."""
        if self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """See it end, whatever it is doing."""
        self.socket.close()
        self.kill()
        self._process.wait()

    def exit_description(self, timeout_seconds: float) -> str:
        """What is worth saying of how it ended, or nothing; it has so many seconds to do so."""
        try:
            status = self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return ""
        if status >= 0:
            return f"exited with status {status}"
        if status == -signal.SIGSYS:
            return "killed by the seccomp filter: forbidden system call"
        if status in {-signal.SIGXCPU, -signal.SIGKILL}:
            return "killed: time or memory limit exceeded"
        name = str(-status)
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
        return f"killed by {name}"


def confine(seconds: int, memory: int, *, must_filter: bool) -> None:
    """Give up all that this process is not to have; to be called when all modules are loaded and all files are open.
    Raises PrivilegeError.
    """
    with contextlib.suppress(OSError):  # where it may not (a service's filter), the guests' time is worth no less
        os.nice(NICENESS)
    for name, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES),
    ):
        _limit(name, limit)
    if os.geteuid() == 0:
        privileges.become(UNPRIVILEGED_USER)
    privileges.die_with_parent()
    privileges.drop()
    privileges.seal()
    _limit(resource.RLIMIT_NPROC, 0)
    try:
        seccomp.allow_only(ALLOWED_CALLS, MASKED_CALLS, REFUSED_CALLS)
    except privileges.PrivilegeError:
        if must_filter:
            raise


def _limit(name: int, limit: int) -> None:
    _, hard = resource.getrlimit(name)
    least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    try:
        resource.setrlimit(name, (least, least))
    except (OSError, ValueError) as error:
        raise privileges.PrivilegeError(f"cannot set the resource limits of the attribution worker: {error}") from error
