"""The cause of a failed system call: exhausted resources, an ended process, or missing rights (errno(3))."""

from __future__ import annotations

import errno
import os
from typing import Final

from samepaged.errors import GuestError, Reason

__all__ = ["exhausted", "memory_error", "no_resources", "process_error", "remedy"]

REMEDIES: Final = {
    errno.EMFILE: "raise LimitNOFILE= in the unit, or `ulimit -n`",
    errno.ENFILE: "raise the sysctl fs.file-max, or close files on the host",
    errno.ENOMEM: "free memory on the host, or raise MemoryMax= in the unit",
    errno.ENOBUFS: "free memory on the host, or raise MemoryMax= in the unit",
    errno.EAGAIN: "raise TasksMax= in the unit, or `ulimit -u`",
}


def exhausted(error: OSError) -> bool:
    """Whether the call failed because descriptors, memory or processes are exhausted. Not for non-blocking calls, which
    fail with EAGAIN in normal operation.
    """
    return error.errno in REMEDIES


def remedy(error: OSError, otherwise: str) -> str:
    """The remedy for an exhausted resource, or another one."""
    return REMEDIES.get(error.errno or 0, otherwise)


def no_resources(subject: str, error: OSError, act: str = "opened") -> GuestError:
    """The error of a call on `subject` that failed because a resource is exhausted."""
    fix = remedy(error, "try again")
    return GuestError(Reason.NO_RESOURCES, f"{subject} cannot be {act} ({_cause(error)})", fix)


def memory_error() -> GuestError:
    """The error of an allocation that failed."""
    return GuestError(
        Reason.NO_RESOURCES,
        "memory for the scan cannot be allocated",
        f"{REMEDIES[errno.ENOMEM]}, or lower scan.threads",
    )


def process_error(error: OSError, pid: int, subject: str, rights: str) -> GuestError:
    """The error of a call on `subject`, which belongs to process `pid`. `rights` is the remedy for missing ones."""
    if exhausted(error):
        return no_resources(subject, error)
    match error.errno:
        case errno.ENOENT | errno.ESRCH:
            return GuestError(Reason.GONE, f"process {pid} has ended")
        case errno.EACCES | errno.EPERM:
            return GuestError(Reason.NO_PERMISSION, f"{subject} cannot be opened ({_cause(error)})", rights)
        case _:
            return GuestError(Reason.READ, f"{subject} cannot be opened ({_cause(error)})", "try again")


def _cause(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or 0)
