"""Recipes of the study's images, and the key that changes with a recipe."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["FILES", "Recipe", "recipe"]

FILES: Final = Path(__file__).resolve().parent / "files"

KERNELS: Final = {"amd64": "linux-image-cloud-amd64", "i386": "linux-image-686-pae"}
BASE: Final = ("systemd-sysv", "dbus", "udev", "kmod", "procps", "initramfs-tools")
SERVER: Final = ("apache2", "libapache2-mod-php", "php-mysql", "mariadb-server", "curl")
DESKTOP: Final = (
    *("xvfb", "x11-utils", "xdotool", "openbox", "fonts-dejavu-core", "adwaita-icon-theme", "librsvg2-common"),
    *("firefox-esr", "libreoffice-writer", "libreoffice-calc", "libreoffice-gtk3"),
    *("mousepad", "thunar", "evince", "mpv"),
)
COMPILER: Final = ("gcc", "libc6-dev", "make", "bc", "flex", "bison", "xz-utils", "perl")
# The kernel's sources are a package, named by the version of the release's kernel.
SOURCES: Final = {"bookworm": "linux-source-6.1", "bullseye": "linux-source-5.10"}


@dataclass(frozen=True)
class Recipe:
    """An image: a release of Debian for an architecture, and the packages of all of its setups."""

    release: str
    architecture: str
    compiles: bool = False

    @property
    def name(self) -> str:
        """Name of the image within the study."""
        return f"{self.release}-{self.architecture}" + ("-compile" if self.compiles else "")

    @property
    def packages(self) -> tuple[str, ...]:
        """Installed packages, in addition to Debian's essential packages."""
        loads = (*COMPILER, SOURCES[self.release]) if self.compiles else (*SERVER, *DESKTOP)
        return (KERNELS[self.architecture], *BASE, *loads)

    @property
    def disk_mib(self) -> int:
        """Size of the file system: room for the packages and for the load's writes."""
        return 6144

    def key(self) -> str:
        """Key of the image: equal keys mean equal images, except for newer versions of the packages."""
        said = hashlib.sha256(repr((self, self.packages, self.disk_mib)).encode())
        said.update((Path(__file__).parent / "build.py").read_bytes())
        root = FILES / "root"
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            said.update(repr((str(path.relative_to(root)), path.stat().st_mode & 0o777, path.read_bytes())).encode())
        return said.hexdigest()[:16]


def recipe(release: str, architecture: str, setup: str) -> Recipe:
    """Return the recipe for guests of this setup: the setups of the paper's section 4.1 differ in the running programs,
    not in the installed packages.
    """
    return Recipe(release, architecture, compiles=setup == "compile")
