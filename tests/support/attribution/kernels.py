"""Debian kernels of several releases, from downloaded packages that are not installed."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.support.images import CACHE, unpacked_kernel

__all__ = ["SUITES", "kernel"]

PACKAGE: Final = "linux-image-cloud-amd64"
# Kernel series of each suite; all of them boot with the CPU features of QEMU 7's emulator.
SUITES: Final = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


def kernel(series: str) -> Path:
    """Return the path of the newest kernel image of this series (see SUITES), downloaded once and cached."""
    image = CACHE / f"vmlinuz-{series}"
    if not image.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            unpacked_kernel(_download(SUITES[series], Path(scratch)), image)
    return image


def _download(suite: str, scratch: Path) -> Path:
    """Return the package of the suite's kernel; apt checks the signature of the suite's archive."""
    for name in ("state/lists/partial", "cache/archives/partial", "etc"):
        (scratch / name).mkdir(parents=True)
    (scratch / "etc/sources.list").write_text(f"deb [signed-by={KEYRING}] {_archive()} {suite} main\n")
    options = {
        "Dir::State": scratch / "state",
        "Dir::Cache": scratch / "cache",
        "Dir::Etc::sourcelist": scratch / "etc/sources.list",
        "Dir::Etc::sourceparts": "-",
        "Acquire::Languages": "none",
        # As the current user, into a directory of that user.
        "APT::Sandbox::User": "root",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def apt(command: str, *rest: str) -> str:
        done = subprocess.run(
            [command, *words, *rest],
            check=True,
            cwd=scratch,
            capture_output=True,
            text=True,
            env={**os.environ, "LANG": "C"},
        )
        return done.stdout

    apt("apt-get", "update", "-qq")
    found = re.search(r"Depends: (linux-image-\d\S*)", apt("apt-cache", "depends", PACKAGE))
    if found is None:
        message = f"{suite} has no {PACKAGE}"
        raise RuntimeError(message)
    apt("apt-get", "download", "-qq", found[1])
    (package,) = scratch.glob("*.deb")
    return package


def _archive() -> str:
    """Return the address of Debian's main archive in this machine's apt sources."""
    command = [
        "apt-get",
        "indextargets",
        "--format",
        "$(REPO_URI) $(RELEASE)",
        "Created-By: Packages",
        "Origin: Debian",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    for line in sorted(done.stdout.splitlines()):
        address, _, release = line.partition(" ")
        if re.fullmatch(r"[a-z]+", release):
            return address
    message = "apt knows no archive of Debian's; on a Debian machine, run apt-get update"
    raise RuntimeError(message)
