"""Leases of a lock manager: libvirt releases the leases of a guest at a suspend and acquires them again at the resume
(libvirt: virDomainLockProcessPause, virDomainLockProcessResume).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from samepaged.doctor.check import Check, ok, warning

__all__ = ["leases", "lock_manager"]

NAME: Final = "leases"
SYSTEM_FILE: Final = Path("/etc/libvirt/qemu.conf")
# The tokens of libvirt's configuration files (src/util/virconf.c). Names inside a comment or a string do not count.
TOKEN: Final = re.compile(
    r"""(?P<comment>\#[^\n]*) | \"{3}(?P<long>.*?)\"{3} | "(?P<double>[^"\n]*)" | '(?P<single>[^'\n]*)'
    | (?P<name>[A-Za-z_][\w.-]*) | (?P<other>\S)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
NO_MANAGER: Final = frozenset({"", "nop"})


def lock_manager(text: str) -> str | None:
    """Return the value of `lock_manager` in the text of qemu.conf, such as "lockd" or "sanlock"; None if it is not set.
    If there are several assignments, libvirt uses the first.
    """
    tokens = [token for token in TOKEN.finditer(text) if token.lastgroup != "comment"]
    for name, equals, value in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if name["name"] == "lock_manager" and equals["other"] == "=":
            found = next((value[kind] for kind in ("long", "double", "single") if value[kind] is not None), "")
            return None if found in NO_MANAGER else found
    return None


def lease_check(path: Path, text: str | OSError | None) -> Check:
    """Check the effect of a suspend on leases. `text`: content of qemu.conf, None if the file does not exist, or the
    error of the read.
    """
    if isinstance(text, OSError):
        return ok(NAME, f"not checked: {path} cannot be read by this user ({text.strerror}); root can read it")
    manager = None if text is None else lock_manager(text)
    if manager is None:
        return ok(NAME, f"{path} does not set a lock manager")
    return warning(
        NAME,
        f"lock_manager is {manager!r} in {path}: libvirt releases a guest's leases at each suspend and acquires them "
        "again at the resume. If another host takes a lease meanwhile, the resume fails, and the guest stays paused "
        "until the lease is free",
        "do not start these guests elsewhere while samepaged scans, or set scan.mode: live (without suspends)",
    )


def _qemu_conf(uri: str) -> Path:
    """Return the qemu.conf of the daemon at `uri`. A session of root uses the system daemon's file."""
    if urlsplit(uri).path == "/session" and os.geteuid():
        base = os.environ.get("XDG_CONFIG_HOME")
        return (Path(base) if base else Path.home() / ".config") / "libvirt/qemu.conf"
    return SYSTEM_FILE


def leases(uri: str) -> list[Check]:
    """Return the check of leases, as far as this user can read libvirt's configuration."""
    path = _qemu_conf(uri)
    try:
        return [lease_check(path, path.read_text(encoding="utf-8", errors="replace"))]
    except FileNotFoundError:
        return [lease_check(path, None)]
    except OSError as error:
        return [lease_check(path, error)]
