"""Debian's kernels of several releases, as packages of theirs that are not installed."""

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
# The series of each suite's kernel; all of them boot without what QEMU 7's emulator does not have.
SUITES: Final = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie"}
KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


def kernel(series: str) -> Path:
    """Path of the newest kernel image of this series (see SUITES), downloaded once and kept in the cache."""
    image = CACHE / f"vmlinuz-{series}"
    if not image.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            unpacked_kernel(_download(SUITES[series], Path(scratch)), image)
    return image


def _download(suite: str, scratch: Path) -> Path:
    """The package of the suite's kernel; apt checks it against what the suite's archive has signed."""
    for name in ("state/lists/partial", "cache/archives/partial", "etc"):
        (scratch / name).mkdir(parents=True)
    (scratch / "etc/sources.list").write_text(f"deb [signed-by={KEYRING}] {_archive()} {suite} main\n")
    options = {
        "Dir::State": scratch / "state",
        "Dir::Cache": scratch / "cache",
        "Dir::Etc::sourcelist": scratch / "etc/sources.list",
        "Dir::Etc::sourceparts": "-",
        "Acquire::Languages": "none",
        # By whoever runs this, into a directory of theirs.
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
    """The address from which this machine's apt takes Debian's main archive."""
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
