"""The image of the lab host, built from Debian's packages and kept until the recipe changes."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.vm.recipe import FILES, PACKAGES, SUITE, VENV, key, requirements
from tests.support.vm.steps import PATH, LabError, need, run, say

__all__ = ["Image", "apt_settings", "apt_sources", "image"]

PROGRAMS = {"mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs", "apt-get": "apt", "unshare": "util-linux"}
# The C library of the host is newer than the one that any of these platforms requires.
PLATFORMS = ("manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 26, 27, 28, 31, 34, 35, 36)))
DISK_MIB = 2048
# Prefix of an image in the cache; the rest of its name is the key of the recipe.
PREFIX = "image-"
# apt settings that this machine may need to reach its archives.
APT_SETTINGS = ("Acquire::Check-", "Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::https::CAInfo")


@dataclass(frozen=True)
class Image:
    """A kernel, and a disk with an ext4 file system to boot it with."""

    kernel: Path
    disk: Path


def image(cache: Path, python: str) -> Image:
    """Return the image of the current recipe. It is built if necessary, as root, in a minute or two. `python` is a
    Python with pip.
    """
    place = cache / f"{PREFIX}{key()}"
    if not place.exists():
        say("building the image of the host; it is kept for later runs")
        with tempfile.TemporaryDirectory(dir=cache, prefix="scratch-") as scratch:
            _build(Path(scratch), python)
            for old in cache.glob(f"{PREFIX}*"):
                shutil.rmtree(old)
            (Path(scratch) / "image").rename(place)
    return Image(place / "vmlinuz", place / "root.img")


def _build(scratch: Path, python: str) -> None:
    if os.geteuid() != 0:
        raise LabError("building the image takes root; run make test-vm as root")
    need(PROGRAMS)
    result, root = scratch / "image", scratch / "root"
    result.mkdir()
    scratch.chmod(0o755)
    _debian(root, scratch)
    _kernel(root, scratch, result / "vmlinuz")
    _python(root, scratch / "wheels", python)
    shutil.copytree(FILES / "root", root, dirs_exist_ok=True)
    disk = result / "root.img"
    with disk.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    # The image is never written: each boot has its own layer over it, so a journal would only cost time.
    run("/usr/sbin/mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-d", root, disk)


def apt_sources() -> str:
    """Return the archives of this suite that this machine uses, as lines of a sources.list."""
    listing = run(
        "apt-get",
        "indextargets",
        "--format",
        "deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
        "Origin: Debian",
    )
    lines = sorted({line for line in listing.splitlines() if line.split()[2].startswith(SUITE)})
    if not lines:
        raise LabError(f"apt knows no archive of Debian's {SUITE}; on a Debian 12 machine, run apt-get update")
    return "\n".join(lines) + "\n"


def apt_settings() -> list[str]:
    """Return the apt settings that this machine needs to reach its archives, as options of mmdebstrap."""
    lines = run("apt-config", "dump").splitlines()
    return [f"--aptopt={line}" for line in lines if line.startswith(APT_SETTINGS)]


def _debian(root: Path, scratch: Path) -> None:
    say(f"Debian {SUITE}, {len(PACKAGES)} packages and what they need")
    sources = scratch / "sources.list"
    sources.write_text(apt_sources())
    run(
        # If it is killed, its mounts disappear with its mount namespace.
        *("unshare", "--mount", "mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase"),
        *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale")),
        *apt_settings(),
        '--aptopt=Acquire::Languages "none";',
        f"--include={','.join(PACKAGES)}",
        SUITE,
        root,
        sources,
        env={**os.environ, "PATH": PATH},
    )
    # Empty, so that each boot gets a new id. mmdebstrap may leave "uninitialized", which would make each boot a first
    # boot.
    (root / "etc/machine-id").write_text("")


def _kernel(root: Path, scratch: Path, vmlinuz: Path) -> None:
    """Install Debian's kernel in its cloud flavour. NVMe and ext4 are built in, so it boots without an initramfs."""
    depends = run("apt-cache", "depends", "linux-image-cloud-amd64")
    found = re.search(r"Depends: (linux-image-(\S*\d\S*))", depends)
    if found is None:
        raise LabError("apt knows no linux-image-cloud-amd64; run apt-get update")
    package, version = found.groups()
    say(package)
    download, tree = scratch / "download", scratch / "kernel"
    download.mkdir()
    run("apt-get", "-q", "download", package, cwd=download)
    (archive,) = download.glob("*.deb")
    run("dpkg-deb", "-x", archive, tree)
    shutil.copyfile(tree / f"boot/vmlinuz-{version}", vmlinuz)
    shutil.copytree(tree / "lib/modules" / version, root / "usr/lib/modules" / version, symlinks=True)
    _inside(root, "depmod", version)


def _python(root: Path, wheels: Path, python: str) -> None:
    """Create a virtual environment with all requirements of the tests except the project, which comes with each run."""
    version = _inside(root, "python3", "-c", "import sys; print('{}{}'.format(*sys.version_info))").strip()
    say(f"wheels for Python {version[0]}.{version[1:]}")
    run(
        *(python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"),
        *("--implementation=cp", f"--python-version={version}", f"--abi=cp{version}", "--abi=abi3", "--abi=none"),
        *(f"--platform={platform}" for platform in PLATFORMS),
        "--dest",
        wheels,
        *requirements(),
    )
    shutil.copytree(wheels, root / "tmp/wheels")
    _inside(root, "python3", "-m", "venv", "--system-site-packages", VENV)
    _inside(
        root,
        *(f"{VENV}/bin/python", "-m", "pip", "install", "--isolated", "--quiet", "--disable-pip-version-check"),
        *("--root-user-action=ignore", "--no-index", "--find-links=/tmp/wheels", *requirements()),
    )
    shutil.rmtree(root / "tmp/wheels")


def _inside(root: Path, *command: str) -> str:
    return run("chroot", root, *command, env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"})
