"""What this process may do: its user, its capabilities, its limits."""

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

# What reading QEMU's memory and pagemap takes, and what clearing its soft-dirty bits takes besides.
READING: Final = ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH")
WRITING: Final = ("CAP_DAC_OVERRIDE",)
# Bytes that are read into at a time, by each thread and once more (memory/locked_buffer.py).
BUFFER_BYTES: Final = 2 << 20


@dataclass(frozen=True, slots=True)
class User:
    """Who this process runs as."""

    name: str
    held: Collection[str]


def user_name(uid: int) -> str:
    """A user's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def is_session(uri: str) -> bool:
    """Whether the guests at this URI of libvirt's are those of one user, and QEMU runs as that user."""
    try:
        return urlsplit(uri).path.endswith("/session")
    except ValueError:
        return False


def capabilities(user: User, scan: ScanConfig, uri: str) -> Check:
    """Whether this process holds the capabilities that this configuration needs."""
    name = "rights"
    if not needs_process(scan.reader):
        return ok(name, f"user {user.name}; the {scan.reader} reader needs no capabilities, only libvirt's rights")
    missing = [one for one in READING if one not in user.held]
    if missing and is_session(uri):
        return ok(name, f"user {user.name}, without {' and '.join(missing)}: enough for QEMUs of the same user")
    if missing:
        return failure(
            name,
            f"user {user.name} has not {' and '.join(missing)}, which reading QEMU's memory and pagemap takes",
            "run it as root (sudo), or as the unit does; or set scan.reader: dump",
        )
    if not set(WRITING) <= set(user.held) and uses_soft_dirty(scan):
        return warning(
            name,
            f"user {user.name} has {' and '.join(READING)} but not {WRITING[0]}: no precopy, as soft-dirty bits "
            "cannot be cleared",
            f"add {WRITING[0]} (docs/operate/libvirt-access.md says what else it allows), or set scan.mode: "
            "snapshot or sliced",
        )
    return ok(name, f"user {user.name}, with {', '.join([*READING, *(one for one in WRITING if one in user.held)])}")


def locked_memory_bytes(threads: int) -> int:
    """Bytes that samepaged locks into memory on so many threads."""
    return BUFFER_BYTES * (threads + 1)


def locked_memory(limit: int | None, threads: int, held: Collection[str]) -> Check:
    """Whether what is read of guests can be kept out of swap: the limit in bytes (None: none) for so many threads."""
    name = "locked memory"
    wanted = locked_memory_bytes(threads)
    need = f"{size(wanted)} for {threads} thread{'s' * (threads != 1)}"
    if "CAP_IPC_LOCK" in held:
        return ok(name, f"not limited for this process; it takes {need}")
    if limit is None:
        return ok(name, f"not limited; it takes {need}")
    if limit < wanted:
        return warning(
            name,
            f"limited to {size(limit)}, and it takes {need}: what is read of guests may be swapped out",
            "LimitMEMLOCK=infinity in the unit, `ulimit -l unlimited` in a shell; or fewer scan.threads",
        )
    return ok(name, f"limited to {size(limit)}; it takes {need}")


def core_dumps(error: PrivilegeError | None) -> Check:
    """Whether a crash would leave a core, by what came of preventing it."""
    name = "core dumps"
    if error is not None:
        return from_error(name, error, "run it outside of that sandbox")
    return ok(name, "none: a process of samepaged sets its core limit to 0 and is not dumpable")


def _seal_process() -> PrivilegeError | None:
    """Do for this process what `run` and `scan` do for theirs. Its own files in /proc are root's afterwards."""
    try:
        seal()
    except PrivilegeError as error:
        return error
    return None


def process(scan: ScanConfig, uri: str, held: Collection[str]) -> list[Check]:
    """All checks of this process. To be asked last: the process's own pagemap may be closed to it afterwards."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return [
        capabilities(User(user_name(os.geteuid()), held), scan, uri),
        locked_memory(None if soft == resource.RLIM_INFINITY else soft, scan.thread_count, held),
        core_dumps(_seal_process()),
    ]
