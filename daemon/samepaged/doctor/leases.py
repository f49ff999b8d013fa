"""Leases of a lock manager: libvirt releases a guest's when it suspends it, and acquires them again at the resume
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
# The tokens of libvirt's configuration files (src/util/virconf.c). A comment or string hides what is in it.
TOKEN: Final = re.compile(
    r"""(?P<comment>\#[^\n]*) | \"{3}(?P<long>.*?)\"{3} | "(?P<double>[^"\n]*)" | '(?P<single>[^'\n]*)'
    | (?P<name>[A-Za-z_][\w.-]*) | (?P<other>\S)""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
NO_MANAGER: Final = frozenset({"", "nop"})


def lock_manager(text: str) -> str | None:
    """The value of `lock_manager` in the text of qemu.conf, such as "lockd" or "sanlock"; None if none is set. Of
    several assignments libvirt takes the first.
    """
    tokens = [token for token in TOKEN.finditer(text) if token.lastgroup != "comment"]
    for name, equals, value in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if name["name"] == "lock_manager" and equals["other"] == "=":
            found = next((value[kind] for kind in ("long", "double", "single") if value[kind] is not None), "")
            return None if found in NO_MANAGER else found
    return None


def lease_check(path: Path, text: str | OSError | None) -> Check:
    """What the text of qemu.conf means for suspended guests: None if there is no such file."""
    if isinstance(text, OSError):
        return ok(NAME, f"not checked: {path} cannot be read by this user ({text.strerror}); root can read it")
    manager = None if text is None else lock_manager(text)
    if manager is None:
        return ok(NAME, f"no lock manager is set in {path}")
    return warning(
        NAME,
        f"lock_manager is {manager!r} in {path}: libvirt releases a guest's leases at each suspend and acquires them "
        "again at the resume. If another host takes a lease meanwhile, the resume fails, and the guest stays paused "
        "until the lease is free",
        "make sure that nothing else starts these guests while samepaged scans, or set scan.mode: live (no suspend)",
    )


def _qemu_conf(uri: str) -> Path:
    """The qemu.conf of the daemon at `uri`. Root has no session daemon: its sessions are the system's."""
    if urlsplit(uri).path == "/session" and os.geteuid():
        base = os.environ.get("XDG_CONFIG_HOME")
        return (Path(base) if base else Path.home() / ".config") / "libvirt/qemu.conf"
    return SYSTEM_FILE


def leases(uri: str) -> list[Check]:
    """Whether a suspend releases leases, as far as this user can read libvirt's configuration."""
    path = _qemu_conf(uri)
    try:
        return [lease_check(path, path.read_text(encoding="utf-8", errors="replace"))]
    except FileNotFoundError:
        return [lease_check(path, None)]
    except OSError as error:
        return [lease_check(path, error)]
