"""Contents of the lab host, and the key that changes with it."""

from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

__all__ = ["FILES", "PACKAGES", "PROJECT", "SUITE", "VENV", "key", "requirements"]

PROJECT = Path(__file__).resolve().parents[3]
FILES = Path(__file__).resolve().parent / "files"

SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv",
    "dbus",
    "udev",
    "kmod",
    "procps",
    "iproute2",
    "polkitd",
    "libvirt-daemon-system",
    "libvirt-clients",
    "qemu-system-x86",
    "seabios",
    "python3-venv",
    "python3-libvirt",
    "libxxhash0",
)
# Where `make install` has its virtual environment, too.
VENV = "/usr/local/lib/samepaged"

# libvirt-python comes as source only, and the image has no compiler: there, Debian's python3-libvirt is it.
FROM_DEBIAN = frozenset({"libvirt-python"})
FOR_TESTS = frozenset({"hypothesis", "pytest", "pytest-timeout"})


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return found[0].lower() if found else ""


def requirements() -> list[str]:
    """What pyproject.toml asks for that the image gets as wheels: to run, and to test."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [one for one in project["dependencies"] if _name(one) not in FROM_DEBIAN]
    wanted += [one for one in project["optional-dependencies"]["dev"] if _name(one) in FOR_TESTS]
    return sorted(wanted)


def key() -> str:
    """Names the image that this recipe makes: equal keys, equal images but for newer packages of the same names."""
    said = hashlib.sha256(repr((SUITE, PACKAGES, VENV, requirements())).encode())
    said.update((Path(__file__).parent / "build.py").read_bytes())
    root = FILES / "root"
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        said.update(repr((str(path.relative_to(root)), path.stat().st_mode, path.read_bytes())).encode())
    return said.hexdigest()[:16]
