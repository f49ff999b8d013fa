"""Permanent system call filter of this process (seccomp(2)). libseccomp translates names of calls into numbers."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Final

from samepaged.privileges import PrivilegeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["allow_only", "available"]

LIBRARY: Final = "libseccomp.so.2"
KILL_PROCESS: Final = 0x80000000
KILL_THREAD: Final = 0
ERRNO: Final = 0x00050000
ALLOW: Final = 0x7FFF0000
MASKED_EQUAL: Final = 7


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    library.seccomp_load.argtypes = library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    return library


def available() -> str | None:
    """Return the reason why filters are unavailable, or None."""
    try:
        _library()
    except (OSError, AttributeError) as error:
        return f"libseccomp is not available ({error})"
    return None


def allow_only(calls: Iterable[str], masked: Mapping[str, tuple[int, int]], refused: Iterable[str]) -> None:
    """Restrict this thread to these system calls. `masked` allows further calls if an argument (by number) has none of
    these bits. The calls in `refused` fail with EPERM; any other call kills the process. Calls that this machine does
    not have are ignored. Raises PrivilegeError.
    """
    try:
        library = _library()
    except (OSError, AttributeError) as error:
        raise PrivilegeError(f"libseccomp is not available ({error})", "install libseccomp2") from error
    # If seccomp(2) itself is forbidden, only KILL_THREAD is available. It also ends a process of one thread.
    rules = library.seccomp_init(KILL_PROCESS) or library.seccomp_init(KILL_THREAD)
    if not rules:
        raise PrivilegeError("libseccomp cannot allocate a filter", "free some memory")
    try:
        for name in calls:
            _add(library, rules, ALLOW, name)
        for name, (argument, bits) in masked.items():
            _add(library, rules, ALLOW, name, _Comparison(argument, MASKED_EQUAL, bits, 0))
        for name in refused:
            _add(library, rules, ERRNO | errno.EPERM, name)
        failed = library.seccomp_load(rules)
        if failed:
            raise PrivilegeError(
                f"the kernel refused the seccomp filter: {os.strerror(-failed)}", "see sources.seccomp"
            )
    finally:
        library.seccomp_release(rules)


def _add(library: ctypes.CDLL, rules: int, action: int, name: str, comparison: _Comparison | None = None) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number < 0:
        return
    compared = None if comparison is None else ctypes.byref(comparison)
    failed = library.seccomp_rule_add_array(rules, action, number, 0 if comparison is None else 1, compared)
    if failed:
        raise PrivilegeError(f"libseccomp refused the rule for {name}: {os.strerror(-failed)}", "see sources.seccomp")
