"""Checks of this process: its user, capabilities and limits."""

from __future__ import annotations

import os
import pwd
import resource
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from samepaged.doctor.check import Check, failure, from_error, ok, warning
from samepaged.doctor.host import uses_soft_dirty
from samepaged.formatting import size
from samepaged.memory.capture import needs_process
from samepaged.privileges import PrivilegeError, seal

if TYPE_CHECKING:
    from collections.abc import Collection

    from samepaged.config import ScanConfig

__all__ = [
    "READING",
    "WRITING",
    "capabilities",
    "core_dumps",
    "locked_memory",
    "locked_memory_bytes",
    "process",
    "user_name",
]

# Capabilities for reads of QEMU's memory and pagemap, and the additional one to clear its soft-dirty bits.
READING: Final = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")
WRITING: Final = ("CAP_DAC_OVERRIDE",)
# Size of the read buffer of each thread and of one more buffer (memory/locked_buffer.py).
BUFFER_BYTES: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class User:
    """The user of this process, and its effective capabilities."""

    name: str
    held: Collection[str]


def user_name(uid: int) -> str:
    """Return a user's name, or its number if it has no name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def is_session(uri: str) -> bool:
    """Return whether this libvirt URI is a user session, with QEMU processes of that user."""
    try:
        return urlsplit(uri).path.endswith("/session")
    except ValueError:
        return False


def capabilities(user: User, scan: ScanConfig, uri: str) -> Check:
    """Check whether this process holds the capabilities that this configuration needs."""
    name = "rights"
    if not needs_process(scan.reader):
        return ok(name, f"user {user.name}; the {scan.reader} reader needs only access to libvirt, not capabilities")
    missing = [one for one in READING if one not in user.held]
    if missing and is_session(uri):
        return ok(name, f"user {user.name}, without {' and '.join(missing)}: enough for QEMU processes of this user")
    if missing:
        return failure(
            name,
            f"user {user.name} does not have {' and '.join(missing)}, required to read QEMU's memory and pagemap",
            "run as root (sudo) or with the unit's user and capabilities, or set scan.reader: dump",
        )
    if not set(WRITING) <= set(user.held) and uses_soft_dirty(scan):
        return warning(
            name,
            f"user {user.name} has {' and '.join(READING)} but not {WRITING[0]}: precopy is unavailable, because "
            "soft-dirty bits cannot be cleared",
            f"add {WRITING[0]} (see docs/operate/libvirt-access.md for its other effects), or set scan.mode: snapshot "
            "or sliced",
        )
    return ok(name, f"user {user.name}, with {', '.join([*READING, *(one for one in WRITING if one in user.held)])}")


def locked_memory_bytes(threads: int) -> int:
    """Return the number of bytes that samepaged locks into memory with this number of threads."""
    return BUFFER_BYTES * (threads + 1)


def locked_memory(limit: int | None, threads: int, held: Collection[str]) -> Check:
    """Check whether buffers with guest memory can be locked, so that they are never swapped out. `limit`: bytes, None
    if unlimited. `held`: the capabilities of this process.
    """
    name = "locked memory"
    wanted = locked_memory_bytes(threads)
    need = f"{size(wanted)} for {threads} thread{'s' * (threads != 1)}"
    if "CAP_IPC_LOCK" in held:
        return ok(name, f"not limited for this process; it needs {need}")
    if limit is None:
        return ok(name, f"not limited; samepaged needs {need}")
    if limit < wanted:
        return warning(
            name,
            f"limited to {size(limit)}, and samepaged needs {need}: data read from guests can be swapped out",
            "set LimitMEMLOCK=infinity in the unit, run `ulimit -l unlimited` in a shell, or reduce scan.threads",
        )
    return ok(name, f"limited to {size(limit)}; samepaged needs {need}")


def core_dumps(error: PrivilegeError | None) -> Check:
    """Check that a crash does not write a core dump. `error`: the error of disabling core dumps, or None."""
    name = "core dumps"
    if error is not None:
        return from_error(name, error, "run it outside of that sandbox")
    return ok(name, "disabled: samepaged's processes set the core limit to 0 and are not dumpable")


def _seal_process() -> PrivilegeError | None:
    """Seal this process as `run` and `scan` do. Its files in /proc belong to root afterwards."""
    try:
        seal()
    except PrivilegeError as error:
        return error
    return None


def process(scan: ScanConfig, uri: str, held: Collection[str]) -> list[Check]:
    """Return all checks of this process. Call it last: afterwards the process may be unable to read its own pagemap."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return [
        capabilities(User(user_name(os.geteuid()), held), scan, uri),
        locked_memory(None if soft == resource.RLIM_INFINITY else soft, scan.thread_count, held),
        core_dumps(_seal_process()),
    ]
