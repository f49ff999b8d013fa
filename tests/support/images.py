"""Boot images of the test guests: a distribution's kernel, extracted from its package without installation, and
initramfs images.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("SAMEPAGED_TESTBED_CACHE", HERE.parents[1] / ".cache" / "testbed"))
# Meta packages that depend on the current kernel: Debian's, then Ubuntu's.
KERNEL_PACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-generic")


@dataclass(frozen=True)
class Entry:
    """One file of an initramfs."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> Entry:
    return Entry(path, stat.S_IFDIR | 0o755)


def program(path: str, content: bytes) -> Entry:
    return Entry(path, stat.S_IFREG | 0o755, content)


def link(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def character_device(path: str, major: int, minor: int) -> Entry:
    return Entry(path, stat.S_IFCHR | 0o600, device=(major, minor))


def newc(entries: list[Entry]) -> bytes:
    """Return the entries as a cpio archive in the 'newc' format, which the kernel unpacks
    (Documentation/driver-api/early-userspace/buffer-format.rst).
    """
    out = bytearray()
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.path.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % value for value in fields) + name
        out += b"\0" * (-len(out) % 4) + entry.content
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def _run(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, check=True, cwd=cwd, capture_output=True, text=True).stdout


def _kernel_package() -> str:
    """Return the name of the package that holds this distribution's current kernel."""
    for meta in KERNEL_PACKAGES:
        try:
            depends = _run("apt-cache", "depends", meta)
        except subprocess.CalledProcessError:
            continue
        found = re.search(r"Depends: (linux-image-[^\s<>]*\d[^\s<>]*)", depends)
        if found:
            return found[1]
    message = f"none of {', '.join(KERNEL_PACKAGES)} is known to apt; run `apt-get update`"
    raise RuntimeError(message)


def kernel() -> Path:
    """Return the path of a kernel image, downloaded once and kept in the cache."""
    image = CACHE / "vmlinuz"
    if not image.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            _run("apt-get", "download", _kernel_package(), cwd=Path(scratch))
            (package,) = Path(scratch).glob("*.deb")
            unpacked_kernel(package, image)
    return image


def unpacked_kernel(package: Path, image: Path) -> None:
    """Extract the kernel's image from its package to `image`."""
    with tempfile.TemporaryDirectory() as scratch:
        _run("dpkg-deb", "-x", str(package), f"{scratch}/tree")
        (found,) = Path(scratch).glob("tree/boot/vmlinuz-*")
        _install(found.read_bytes(), image)


def _install(content: bytes, path: Path) -> Path:
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(content)
    partial.chmod(0o644)
    return partial.rename(path)


def pack(name: str, entries: list[Entry]) -> Path:
    """Write the entries as a compressed initramfs of this name in the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return _install(gzip.compress(newc(entries), compresslevel=1, mtime=0), CACHE / f"{name}.img")


def compiled(source: Path, *options: str) -> Path:
    """Return the program compiled from a C source, in the cache. It is compiled again if the source is newer."""
    binary = CACHE / source.stem
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        CACHE.mkdir(parents=True, exist_ok=True)
        # Another process may compile the program at the same time, or read it.
        partial = binary.with_suffix(f".{os.getpid()}")
        _run("cc", "-O2", "-Wall", *options, "-o", str(partial), str(source))
        partial.rename(binary)
    return binary


@cache
def writer_image() -> Path:
    """Return an initramfs with one process, `guest_init.c`: the guest holds exactly the contents that the test
    requests.
    """
    init = compiled(HERE / "guest_init.c", "-static").read_bytes()
    return pack("writer", [directory("dev"), directory("proc"), program("init", init)])


SHELL_INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t tmpfs tmpfs /tmp
{script}
echo samepaged-guest-up
while :; do /bin/busybox sleep 1; done
"""


def busybox_image(name: str, script: str) -> Path:
    """Return an initramfs of busybox that runs `script` (sh) and then idles."""
    busybox = shutil.which("busybox", path=f"{CACHE}/bin:{os.environ.get('PATH', os.defpath)}")
    if busybox is None:
        message = "busybox is not installed; run `make deps`"
        raise RuntimeError(message)
    init = SHELL_INIT.format(script=script).encode()
    entries = [
        directory("bin"),
        directory("dev"),
        character_device("dev/console", 5, 1),
        program("bin/busybox", Path(busybox).read_bytes()),
        *(link(f"bin/{name}", "busybox") for name in ("sh", "cat", "dd", "seq", "cp")),
        program("init", init),
    ]
    return pack(name, entries)
