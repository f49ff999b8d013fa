"""The sandbox of the attribution worker, the process that reads a guest's memory.

The worker has a socket to the daemon, a read-only copy of some of the guest's pages, and limits on memory and time. It
cannot use privileges, files, the network or other programs. A guest that takes it over can only forge the attribution
of its own pages.
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
# numpy's linear algebra would start threads when it is loaded. They are not needed, and the sandbox forbids them.
ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
UNPRIVILEGED_USER: Final = "nobody"
NICENESS: Final = 10
# Bytes of address space for the interpreter and numpy, and for each page of the guest's memory.
BASE_MEMORY_BYTES: Final = 1 << 30
MEMORY_BYTES_PER_PAGE: Final = 512
MAX_FILES: Final = 8
PROT_EXEC: Final = 4

# System calls that Python and numpy need for computation and for an open socket.
ALLOWED_CALLS: Final = (
    *("read", "write", "recvfrom", "sendto", "recvmsg", "sendmsg", "poll", "ppoll", "close"),
    *("brk", "munmap", "mremap", "madvise", "futex", "rt_sigreturn", "rt_sigprocmask", "sigaltstack"),
    *("clock_gettime", "gettimeofday", "getrandom", "sched_yield", "restart_syscall", "exit", "exit_group"),
)
# The same, for memory that is not executable.
MASKED_CALLS: Final = {"mmap": (2, PROT_EXEC), "mprotect": (2, PROT_EXEC)}
# Calls that legitimate code may try, such as the search for a module that is imported late. They fail with EPERM.
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
    """Limits of the worker: seconds of CPU time, bytes of memory; and whether the system call filter is mandatory."""

    seconds: float
    memory: int
    seccomp: bool = True

    @classmethod
    def of(cls, seconds: float, pages: int, copied: int, *, seccomp: bool) -> Limits:
        """Return limits for a guest of `pages` pages, with at most `copied` copied pages."""
        return cls(seconds, BASE_MEMORY_BYTES + MEMORY_BYTES_PER_PAGE * pages + (copied + 1) * 4096, seccomp)


class SandboxedProcess:
    """A process of `program` (arguments of the interpreter). `file` is the page buffer of a guest of `pages` pages.
    Raises OSError.
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
        """The process ID."""
        return self._process.pid

    def kill(self) -> None:
        """Kill the process without waiting."""
        if self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """Kill the process and wait for it."""
        self.socket.close()
        self.kill()
        self._process.wait()

    def exit_description(self, timeout_seconds: float) -> str:
        """Wait up to `timeout_seconds` for the exit and describe it; an empty string if the process still runs."""
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
    """Drop privileges and set limits for this process. Call it when all modules are loaded and all files are open.
    Raises PrivilegeError.
    """
    with contextlib.suppress(OSError):  # may be forbidden by the service's filter, and is not essential
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
