"""Privileges of samepaged's processes: capabilities, user, and protection from core dumps and debuggers.

Capabilities and no_new_privs belong to the thread: call `drop` before any other is started.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import signal
from typing import TYPE_CHECKING, Final

from samepaged.errors import SamepagedError

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["PrivilegeError", "become", "die_with_parent", "drop", "effective_capabilities", "seal"]

# By number (capabilities(7), linux/capability.h). A kernel may have fewer or more of them.
CAPABILITY_NAMES: Final = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
NAMES: Final = tuple(f"CAP_{name}" for name in CAPABILITY_NAMES.split())
MAX_CAPABILITIES: Final = 64
CAPABILITY_VERSION: Final = 0x20080522

PR_SET_PDEATHSIG: Final = 1
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4


class PrivilegeError(SamepagedError):
    """The kernel refused to drop a privilege of this process, so the process must exit."""


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct; pid 0 is the calling thread."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Half(ctypes.Structure):
    """struct __user_cap_data_struct: 32 capabilities of each set."""

    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.capget.argtypes = _libc.capset.argtypes = [ctypes.POINTER(_Header), ctypes.POINTER(_Half * 2)]


def seal() -> None:
    """Allow no core of this process, and no process of its own user to read its memory or its files.

    Its files in /proc become root's (proc(5)): a process without capabilities cannot open its own pagemap afterwards.
    Lost on execve, so every program calls it for itself. Raises PrivilegeError.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except OSError as error:
        raise PrivilegeError(f"the size of core files cannot be limited to 0: {error.strerror}") from error
    # The limit does not apply if cores are piped into a program (core(5)); this does.
    _prctl("PR_SET_DUMPABLE", PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends. Lost with a change of user, so it comes
    after that. Raises PrivilegeError.
    """
    _prctl("PR_SET_PDEATHSIG", PR_SET_PDEATHSIG, signal.SIGKILL)


def drop(keep: Collection[str] = ()) -> None:
    """Give up every capability but those of `keep` (names as "CAP_SYS_PTRACE") that are held, for good: no program
    that is started from here gains one, setuid or not. Raises PrivilegeError, and ValueError for a name that is none.
    """
    unknown = sorted(set(keep) - set(NAMES))
    if unknown:
        raise ValueError(f"not a capability: {', '.join(unknown)}")
    if len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208 - names are all that is wanted
        raise PrivilegeError("capabilities must be given up before a second thread is started, which would keep them")
    _prctl("PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)
    _prctl("PR_CAP_AMBIENT", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    effective, permitted = _sets()
    if effective & _bits(["CAP_SETPCAP"]):
        _bound(_bits(keep) & permitted)
    _keep(_bits(keep) & permitted)


def become(user: str) -> None:
    """Change to this user, with its primary group only and without root's capabilities. Requires root, unless the
    process already runs as that user; then nothing changes. Raises PrivilegeError.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise PrivilegeError(f"user {user!r} does not exist", "create it, or name another") from error
    if os.geteuid() == entry.pw_uid:
        return
    if os.geteuid() != 0:
        raise PrivilegeError(f"only root can become user {user!r}", "start samepaged as root, or as that user")
    sealed = _libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0
    try:
        os.setgroups([])
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except OSError as error:
        raise PrivilegeError(f"this process cannot become user {user!r}: {error.strerror}") from error
    if sealed:  # a change of user sets fs.suid_dumpable instead (prctl(2))
        seal()


def effective_capabilities() -> frozenset[str]:
    """The capabilities in effect in this thread, by name. Those without a name here are "CAP_" and their number.
    Raises PrivilegeError.
    """
    effective, _ = _sets()
    return frozenset(
        NAMES[number] if number < len(NAMES) else f"CAP_{number}"
        for number in range(MAX_CAPABILITIES)
        if effective >> number & 1
    )


def _bits(names: Collection[str]) -> int:
    return sum(1 << NAMES.index(name) for name in set(names))


def _syscall_error(call: str) -> PrivilegeError:
    why = os.strerror(ctypes.get_errno())
    return PrivilegeError(f"{call} failed: {why}", "is this process under a system call filter that forbids it?")


def _prctl(name: str, option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        raise _syscall_error(f"prctl({name})")


def _sets() -> tuple[int, int]:
    """The effective and the permitted capabilities, as bits."""
    halves = (_Half * 2)()
    if _libc.capget(_Header(CAPABILITY_VERSION, 0), halves):
        raise _syscall_error("capget")
    low, high = halves
    return low.effective | high.effective << 32, low.permitted | high.permitted << 32


def _keep(bits: int) -> None:
    low, high = bits & 0xFFFFFFFF, bits >> 32
    if _libc.capset(_Header(CAPABILITY_VERSION, 0), (_Half * 2)(_Half(low, low, 0), _Half(high, high, 0))):
        raise _syscall_error("capset")


def _bound(bits: int) -> None:
    """Take all others out of the bounding set, which root would get back from it by execve."""
    for number in range(MAX_CAPABILITIES):
        if _libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) < 0:  # this kernel has fewer
            return
        if not bits >> number & 1:
            _prctl("PR_CAPBSET_DROP", PR_CAPBSET_DROP, number)
