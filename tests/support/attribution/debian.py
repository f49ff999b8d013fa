"""Debian guests with a web server, a database, Python and a desktop program, and with the guest agent."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from experiments.build import release_sources
from tests.support.images import CACHE
from tests.support.vm.build import apt_settings, apt_sources
from tests.support.vm.steps import PATH, LabError, need, run, say

__all__ = ["RELEASES", "Image", "image"]

RELEASES: Final = ("bullseye", "bookworm", "trixie")
PROGRAMS: Final = {"mmdebstrap": "mmdebstrap", "mkfs.ext4": "e2fsprogs", "unshare": "util-linux"}
PACKAGES: Final = (
    *("linux-image-cloud-amd64", "systemd-sysv", "dbus", "udev", "kmod", "procps", "initramfs-tools"),
    *("qemu-guest-agent", "apache2", "mariadb-server", "python3"),
    *("xvfb", "openbox", "mousepad", "fonts-dejavu-core", "adwaita-icon-theme", "librsvg2-common"),
)
MODULES: Final = "virtio_pci\nvirtio_blk\next4\ncrc32c\n"
DESKTOP: Final = """\
[Unit]
Description=A desktop that nobody looks at, and a program that waits
[Service]
Environment=DISPLAY=:1 HOME=/root
ExecStart=/bin/sh -c 'Xvfb :1 & sleep 3; openbox & dbus-run-session mousepad /etc/passwd & exec python3 -c "{python}"'
[Install]
WantedBy=multi-user.target
"""
PYTHON: Final = "import json,time;kept=[str(n)*9 for n in range(9000)];time.sleep(10**8)"
DISK_MIB: Final = 4096


@dataclass(frozen=True)
class Image:
    """Boot files of a guest: a kernel, its initramfs, and a disk with an ext4 file system."""

    kernel: Path
    initramfs: Path
    disk: Path


def image(release: str) -> Image:
    """Return the image of a release. Build it if needed, as root, in a few minutes."""
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    place = CACHE / f"owners-{release}-{recipe}"
    if not place.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        say(f"building the image owners-{release}; it is kept for later runs")
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="scratch-") as scratch:
            _build(Path(scratch), release)
            (Path(scratch) / "image").rename(place)
    return Image(place / "vmlinuz", place / "initrd.img", place / "root.img")


def _build(scratch: Path, release: str) -> None:
    if os.geteuid() != 0:
        raise LabError("building images needs root; run make test-sources as root")
    need(PROGRAMS)
    result, root = scratch / "image", scratch / "root"
    result.mkdir()
    scratch.chmod(0o755)
    sources = scratch / "sources.list"
    sources.write_text(release_sources(apt_sources(), release))
    run(
        # If it is killed, its mounts disappear with its mount namespace.
        *("unshare", "--mount", "mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase"),
        *(f"--dpkgopt=path-exclude=/usr/share/{what}/*" for what in ("doc", "man", "locale")),
        *apt_settings(),
        '--aptopt=Acquire::Languages "none";',
        f"--include={','.join(PACKAGES)}",
        *(release, root, sources),
        env={**os.environ, "PATH": PATH},
    )
    (root / "etc/machine-id").write_text("")
    (root / "etc/fstab").write_text("/dev/vda / ext4 rw,relatime 0 1\n")
    (root / "etc/hostname").write_text(f"{release}\n")
    (root / "etc/initramfs-tools/modules").write_text(MODULES)
    (root / "etc/initramfs-tools/conf.d/list").write_text("MODULES=list\n")
    (root / "etc/systemd/system/desktop.service").write_text(DESKTOP.format(python=PYTHON))
    (root / "files").write_text("".join(f"{path}\n" for path in _files(root)))
    _inside(root, "systemctl", "enable", "--quiet", "desktop", "apache2", "mariadb")
    _inside(root, "update-initramfs", "-u")
    for name in ("vmlinuz", "initrd.img"):
        (found,) = (root / "boot").glob(f"{name}-*")
        shutil.copyfile(found, result / name)
    disk = result / "root.img"
    with disk.open("wb") as file:
        file.truncate(DISK_MIB << 20)
    # The image is read-only: each guest has its own overlay.
    run("/usr/sbin/mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-d", root, disk)


def _files(root: Path) -> list[str]:
    """Return the files for the guest's report of its page cache, mapped or not."""
    places = ("usr/bin", "usr/sbin", "usr/lib/x86_64-linux-gnu", "usr/lib/systemd", "etc", "usr/lib/apache2/modules")
    found = [path for place in places for path in sorted((root / place).iterdir()) if path.is_file()]
    return [f"/{path.relative_to(root)}" for path in found if not path.is_symlink()]


def _inside(root: Path, *command: str) -> str:
    return run("chroot", root, *command, env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"})
