"""The recipe of the lab host, and the key that changes with it."""

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
# `make install` has its virtual environment here, too.
VENV = "/usr/local/lib/samepaged"

# PyPI has libvirt-python as source only, and the image lacks a compiler: the image uses Debian's python3-libvirt.
FROM_DEBIAN = frozenset({"libvirt-python"})
FOR_TESTS = frozenset({"hypothesis", "pytest", "pytest-timeout"})


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return found[0].lower() if found else ""


def requirements() -> list[str]:
    """Return the requirements in pyproject.toml that the image gets as wheels: run-time and test requirements."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [one for one in project["dependencies"] if _name(one) not in FROM_DEBIAN]
    wanted += [one for one in project["optional-dependencies"]["dev"] if _name(one) in FOR_TESTS]
    return sorted(wanted)


def key() -> str:
    """Return the name of the image that this recipe makes. Images with equal keys differ only in the versions of
    packages.
    """
    said = hashlib.sha256(repr((SUITE, PACKAGES, VENV, requirements())).encode())
    said.update((Path(__file__).parent / "build.py").read_bytes())
    root = FILES / "root"
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        said.update(repr((str(path.relative_to(root)), path.stat().st_mode, path.read_bytes())).encode())
    return said.hexdigest()[:16]
