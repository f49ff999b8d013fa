"""Image for `guest_owners.c`: an initramfs of this machine's own dynamic programs, with their libraries."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.images import character_device, compiled, directory, pack, program

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BUSY", "IDLE", "OWNERS_SOURCE", "PLANTED", "image", "planted_library"]

OWNERS_SOURCE: Final = Path(__file__).with_name("guest_owners.c")
TENANT_SOURCE: Final = Path(__file__).with_name("guest_tenant.c")

# Path of the planted library in the guest.
PLANTED: Final = "/usr/lib/libplanted.so.1"
PYTHON: Final = "import time,mmap\nkept=[str(n)*9 for n in range(9000)]\nwhile 1: time.sleep(999)"
# Each is a process; idle ones do not change their memory.
IDLE: Final = (
    "/bin/tenant variety 12",
    "/bin/sleep 1000000",
    "/bin/sleep 1000000",
    "/bin/bash /srv/wait.sh",
    "/bin/python3 -I -S /srv/wait.py",
)
BUSY: Final = (*IDLE, "/bin/tenant busy")
# Read once at boot, and not mapped: the page cache.
UNMAPPED: Final = ("/srv/data/read only", "/srv/data/öl.bin", "/srv/data/" + "long-" * 20 + "name")


def image(name: str, tenants: Sequence[str], library: Path | None = None) -> Path:
    """Build an initramfs with a process 1 that starts `tenants` (commands) and reports the owners of the guest's pages.
    `library`: a file to add, which a further process maps.
    """
    programs = {
        "init": compiled(OWNERS_SOURCE, "-static"),
        "bin/tenant": compiled(TENANT_SOURCE, "-pthread"),
        "bin/sleep": _found("sleep"),
        "bin/bash": _found("bash"),
        "bin/python3": _python(),
    }
    contents = {path: source.read_bytes() for path, source in programs.items()}
    for source in programs.values():
        contents |= {str(path).lstrip("/"): path.read_bytes() for path in _libraries(source)}
    contents |= {str(path).lstrip("/"): path.read_bytes() for path in _python_files()}
    contents["srv/wait.py"] = PYTHON.encode()
    contents["srv/wait.sh"] = b"declare -a kept; for ((n=0; n<4000; n++)); do kept[n]=x$n; done\nwhile :; do read; done"
    for number, path in enumerate(UNMAPPED, start=1):
        contents[path.lstrip("/")] = b"".join(b"%s %d %d" % (b"page" * 700, number, k) for k in range(9 * number))
    if library is not None:
        contents[PLANTED.lstrip("/")] = library.read_bytes()
        tenants = (*tenants, f"/bin/tenant planted {PLANTED}")
    contents["tenants"] = "\n".join(tenants).encode() + b"\n"
    contents["files"] = "\n".join(f"/{path}" for path in sorted(contents) if path != "files").encode() + b"\n"
    directories = {str(parent) for path in contents for parent in Path(path).parents} - {"."}
    entries = [
        *(directory(path) for path in sorted(directories | {"dev", "proc", "sys", "tmp"})),
        character_device("dev/console", 5, 1),
        *(program(path, content) for path, content in sorted(contents.items())),
    ]
    return pack(f"owners-{name}", entries)


def planted_library(directory_: Path, pages: int = 64) -> Path:
    """Create a file of `pages` distinct pages that no other file has."""
    path = directory_ / "libplanted.so.1"
    path.write_bytes(b"".join((b"planted page %d. " % number * 400)[:4096] for number in range(pages)))
    return path


def _python() -> Path:
    """Return the system's Python, which may be smaller than the running one."""
    return Path(shutil.which("python3", path="/usr/bin:/bin") or sys.executable).resolve()


def _found(name: str) -> Path:
    path = shutil.which(name)
    if path is None:
        message = f"{name} is not installed"
        raise RuntimeError(message)
    return Path(path).resolve()


def _libraries(program_: Path) -> list[Path]:
    """Return the shared libraries of a program, by the names in it; none if it is static."""
    done = subprocess.run(["ldd", program_], capture_output=True, text=True, check=False)
    return [Path(path) for path in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", done.stdout, re.MULTILINE)]


def _python_files() -> list[Path]:
    """Return the files that the interpreter reads to run PYTHON."""
    script = (
        "import sys,time,mmap\nfor m in list(sys.modules.values()):\n if getattr(m,'__file__',None): print(m.__file__)"
    )
    command = [str(_python()), "-I", "-S", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines() if line.startswith("/")]
