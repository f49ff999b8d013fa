"""Checks of the installed systemd units: the users, capabilities and limits of their processes."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from samepaged.doctor.check import Check, failure, ok, warning
from samepaged.doctor.host import uses_soft_dirty
from samepaged.doctor.process import READING, WRITING, locked_memory_bytes
from samepaged.formatting import size
from samepaged.memory.capture import needs_process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from samepaged.config import ScanConfig

__all__ = ["UnitUser", "parse_properties", "scanner_unit", "units", "web_unit"]

SYSTEMD: Final = Path("/run/systemd/system")
SCANNER: Final = "samepaged.service"
WEB: Final = "samepaged-web.service"
GROUP: Final = "libvirt"
RULES: Final = tuple(
    Path(above) / "polkit-1/rules.d/50-samepaged.rules" for above in ("/etc", "/run", "/usr/local/share", "/usr/share")
)
PROPERTIES: Final = (
    "LoadState",
    "ActiveState",
    "User",
    "AmbientCapabilities",
    "CapabilityBoundingSet",
    "LimitCORE",
    "LimitMEMLOCK",
    "PrivateUsers",
)


@dataclass(frozen=True, slots=True)
class UnitUser:
    """The unit's user: whether it exists, is a member of group `libvirt`, or has a polkit rule."""

    name: str
    exists: bool
    in_group: bool
    allowed_by_polkit: bool


def parse_properties(text: str) -> dict[str, str]:
    """Parse the output of `systemctl show`."""
    return dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)


def _edit(unit: str, *settings: str) -> str:
    return f"run systemctl edit {unit}, and add to [Service]: {' and '.join(settings)}"


def scanner_unit(properties: Mapping[str, str], user: UnitUser, scan: ScanConfig) -> list[Check]:
    """Check whether samepaged.service has exactly the privileges that this configuration needs."""
    name = "unit"
    if properties.get("LoadState") != "loaded":
        return [warning(name, f"{SCANNER} is not installed", "make install, then systemctl enable --now samepaged")]
    checks = [
        *_user_checks(user, root=user.name in {"", "root"}),
        *_capabilities(properties, scan, root=user.name in {"", "root"}),
    ]
    checks += _limits(properties, scan)
    if checks:
        return checks
    held = ", ".join(sorted(properties.get("AmbientCapabilities", "").upper().split())) or "no capabilities"
    return [ok(name, f"{SCANNER} ({properties.get('ActiveState', '?')}) runs as user {user.name}, with {held}")]


def _user_checks(user: UnitUser, *, root: bool) -> list[Check]:
    name = "unit user"
    if root:
        return [warning(name, f"{SCANNER} runs as root, but does not need it", _edit(SCANNER, "User=samepaged"))]
    if not user.exists:
        return [failure(name, f"user {user.name!r} of {SCANNER} does not exist", "systemd-sysusers")]
    if not (user.in_group or user.allowed_by_polkit):
        return [
            failure(
                name,
                f"user {user.name} is not a member of group {GROUP} and does not have a polkit rule: libvirt refuses "
                "its suspend calls",
                f"usermod --append --groups {GROUP} {user.name}; systemctl restart samepaged",
            )
        ]
    return []


def _capabilities(shown: Mapping[str, str], scan: ScanConfig, *, root: bool) -> list[Check]:
    name = "unit rights"
    if not needs_process(scan.reader):
        return []
    if shown.get("PrivateUsers", "no") not in {"no", ""}:
        return [
            failure(
                name,
                f"{SCANNER} sets PrivateUsers=: its capabilities do not apply to the host's processes",
                _edit(SCANNER, "PrivateUsers=no"),
            )
        ]
    sets = ("CapabilityBoundingSet",) if root else ("AmbientCapabilities", "CapabilityBoundingSet")
    allowed = set.intersection(*(set(shown.get(one, "").upper().split()) for one in sets))
    for wanted, judge, effect in (
        (READING, failure, "guests cannot be read"),
        (WRITING, warning, "precopy is unavailable, because soft-dirty bits cannot be cleared"),
    ):
        missing = sorted(set(wanted) - allowed)
        if missing and (wanted is READING or uses_soft_dirty(scan)):
            settings = [f"{one}={' '.join(missing)}" for one in sets]
            return [
                judge(name, f"{SCANNER} does not have {' and '.join(missing)}: {effect}", _edit(SCANNER, *settings))
            ]
    return []


def _limits(shown: Mapping[str, str], scan: ScanConfig) -> list[Check]:
    checks = []
    if shown.get("LimitCORE", "0") != "0":
        checks.append(
            warning(
                "unit limits",
                f"{SCANNER} does not set LimitCORE=0: only samepaged itself disables core dumps",
                _edit(SCANNER, "LimitCORE=0"),
            )
        )
    locked = shown.get("LimitMEMLOCK", "infinity")
    wanted = locked_memory_bytes(scan.thread_count)
    if locked.isdecimal() and int(locked) < wanted:
        checks.append(
            warning(
                "unit limits",
                f"{SCANNER} may lock {size(int(locked))} and needs {size(wanted)}: data read from guests can be "
                "swapped out",
                _edit(SCANNER, "LimitMEMLOCK=infinity"),
            )
        )
    return checks


def web_unit(properties: Mapping[str, str], scanner: Mapping[str, str]) -> list[Check]:
    """Check whether the web process is isolated from the process that reads guest memory."""
    name = "web unit"
    if scanner.get("LoadState") != "loaded" or properties.get("LoadState") != "loaded":
        return []
    user = properties.get("User", "")
    if user in {"", "root", scanner.get("User", "")}:
        return [
            warning(
                name,
                f"{WEB} runs as user {user or 'root'}: the web process is not isolated from guest memory",
                _edit(WEB, "User=samepaged-web"),
            )
        ]
    held = properties.get("AmbientCapabilities", "").upper()
    if held:
        return [warning(name, f"{WEB} has {held}, but does not need it", _edit(WEB, "AmbientCapabilities="))]
    return [ok(name, f"{WEB} ({properties.get('ActiveState', '?')}) runs as user {user}, without capabilities")]


def _show(unit: str) -> dict[str, str] | None:
    """Return systemd's properties of a unit; None if the query fails."""
    program = shutil.which("systemctl") or "systemctl"
    try:
        done = subprocess.run(
            [program, "show", unit, f"--property={','.join(PROPERTIES)}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return parse_properties(done.stdout)


def _unit_user(name: str) -> UnitUser:
    ruled = name == "samepaged" and any(os.path.lexists(path) for path in RULES)
    try:
        entry = pwd.getpwnam(name)
        groups = os.getgrouplist(name, entry.pw_gid)
    except KeyError:
        return UnitUser(name, exists=False, in_group=False, allowed_by_polkit=ruled)
    try:
        in_group = grp.getgrnam(GROUP).gr_gid in groups
    except KeyError:
        in_group = False
    return UnitUser(name, exists=True, in_group=in_group, allowed_by_polkit=ruled)


def units(scan: ScanConfig) -> list[Check]:
    """Return all checks of the units."""
    if not SYSTEMD.is_dir():
        return [ok("unit", "not checked, because systemd is not running")]
    shown = _show(SCANNER)
    if shown is None:
        return [warning("unit", "not checked: systemd does not respond", f"systemctl status {SCANNER}")]
    user = _unit_user(shown.get("User", ""))
    return [*scanner_unit(shown, user, scan), *web_unit(_show(WEB) or {}, shown)]
