"""Images of the study, built from Debian packages and cached until their recipe changes."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from experiments.recipe import FILES
from tests.support.vm.build import apt_settings, apt_sources
from tests.support.vm.recipe import SUITE
from tests.support.vm.steps import PATH, LabError, need, run, say

if TYPE_CHECKING:
    from experiments.recipe import Recipe

__all__ = ["Image", "image", "release_sources"]

PROGRAMS: Final = {
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
    "unshare": "util-linux",
    "arch-test": "arch-test",
}
# Large parts of the kernel's sources that a build for x86 does not read.
NOT_COMPILED: Final = (
    "Documentation/",
    "drivers/gpu/drm/amd/include/",
    "drivers/gpu/drm/nouveau/include/",
    "tools/testing/",
)


@dataclass(frozen=True)
class Image:
    """A kernel, its initramfs, and a disk with an ext4 file system, as a guest boots them."""

    kernel: Path
    initramfs: Path
    disk: Path


def image(cache: Path, recipe: Recipe) -> Image:
    """Return the image of a recipe; build it if needed, which requires root and takes some minutes."""
    place = cache / f"{recipe.name}-{recipe.key()}"
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        say(f"building the image {recipe.name}; it is kept for later runs")
        with tempfile.TemporaryDirectory(dir=cache, prefix="scratch-") as scratch:
            _build(Path(scratch), recipe)
            (Path(scratch) / "image").rename(place)
    return Image(place / "vmlinuz", place / "initrd.img", place / "root.img")


def release_sources(listing: str, release: str) -> str:
    """Return the lines of a sources.list for `release`, derived from the machine's main archive, with the same address.

    Only the point release is used: updates of an old release move away, and a release must stay the same to be
    comparable.
    """
    lines = [line.split() for line in listing.splitlines()]
    found = [f"deb {where} {release} {part}" for _, where, suite, part in lines if suite == SUITE and part == "main"]
    if not found:
        raise LabError(f"apt knows no archive of Debian's {SUITE}; on a Debian 12 machine, run apt-get update")
    return "\n".join(found) + "\n"


def _build(scratch: Path, recipe: Recipe) -> None:
    if os.geteuid() != 0:
        raise LabError("building images takes root; run make study as root")
    need(PROGRAMS)
    result, root = scratch / "image", scratch / "root"
    result.mkdir()
    scratch.chmod(0o755)
    sources = scratch / "sources.list"
    sources.write_text(release_sources(apt_sources(), recipe.release))
    run(
        # If the build is killed, its mounts disappear with its mount namespace.
        *("unshare", "--mount", "mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase"),
        *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale")),
        *apt_settings(),
        '--aptopt=Acquire::Languages "none";',
        f"--architectures={recipe.architecture}",
        f"--include={','.join(recipe.packages)}",
        recipe.release,
        root,
        sources,
        env={**os.environ, "PATH": PATH},
    )
    # A new machine id at each boot, as in an installed system.
    (root / "etc/machine-id").write_text("")
    shutil.copytree(FILES / "root", root, dirs_exist_ok=True)
    _inside(root, "update-initramfs", "-u")
    if recipe.compiles:
        _kernel_sources(root)
    else:
        _inside(root, "systemctl", "disable", "--quiet", "apache2", "mariadb")
        _inside(root, "useradd", "--create-home", "--shell", "/bin/bash", "field")
    for name, wanted in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd.img")):
        (found,) = (root / "boot").glob(f"{wanted}-*")
        shutil.copyfile(found, result / name)
    disk = result / "root.img"
    with disk.open("wb") as file:
        file.truncate(recipe.disk_mib << 20)
    # The image is read-only: each guest has a separate overlay on it.
    run("/usr/sbin/mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-d", root, disk)


def _kernel_sources(root: Path) -> None:
    (archive,) = (root / "usr/src").glob("linux-source-*.tar.xz")
    with tarfile.open(archive) as packed:
        for entry in packed:
            top, _, path = entry.name.partition("/")
            if not path.startswith(NOT_COMPILED) or "Kconfig" in path or path.endswith("Makefile"):
                packed.extract(entry, root / "usr/src", filter="tar")
    archive.unlink()
    (root / "usr/src" / top).rename(root / "usr/src/linux")
    # The smallest configuration, and prebuilt host programs: emulated, they would take half of the build time.
    _inside(root, "make", "--silent", "-C", "/usr/src/linux", "tinyconfig", "prepare")


def _inside(root: Path, *command: str) -> str:
    return run("chroot", root, *command, env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"})
