"""A private libvirtd in a mount namespace: isolated from the machine's libvirt."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt

from tests.support.images import CACHE
from tests.support.waiting import happens

if TYPE_CHECKING:
    from collections.abc import Iterator

# In libvirtd's mount namespace only, a directory below the testbed's root replaces each directory that it writes to.
PRIVATE = (
    ("/run/libvirt", "run"),
    ("/var/lib/libvirt", "lib"),
    ("/var/log/libvirt", "log"),
    ("/var/cache/libvirt", "cache"),
    ("/etc/libvirt", "etc"),
)

# libvirt's cache of QEMU's capabilities: to probe QEMU takes four seconds of processor time.
MEMORY = Path("/dev/shm")  # noqa: S108
CAPABILITIES = CACHE / "capabilities"

LIBVIRTD_CONF = """\
unix_sock_dir = "{root}/sock"
unix_sock_ro_perms = "0777"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
"""

# Guests run as root: /dev/kvm is often closed to other users, and libvirt then probes QEMU again at every start of a
# domain. The tests do not cover cgroups, security drivers and the log daemon, so these are off.
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
dynamic_ownership = 0
memory_backing_dir = "{root}/ram"
"""

START = r"""
set -e
mount --make-rprivate /
root=$1; shift
while [ "$1" != -- ]; do mkdir -p "$1" "$root/$2"; mount --bind "$root/$2" "$1"; shift 2; done
shift
exec "$@"
"""


@dataclass
class Libvirtd:
    """One private libvirtd, reachable at `uri`. Its guests keep running when it stops, as they do on a host, until
    `destroy_guests`.
    """

    root: Path
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        # On a host this is a tmpfs: libvirtd syncs a guest's state there at each suspend and resume call.
        if not (self.root / "run").exists() and MEMORY.is_dir():
            (self.root / "run").symlink_to(tempfile.mkdtemp(prefix="samepaged-run-", dir=MEMORY))
        for _, name in PRIVATE:
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in ("sock", "ram", "lib/qemu", "etc/qemu"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "etc/libvirtd.conf").write_text(LIBVIRTD_CONF.format(root=self.root))
        (self.root / "etc/qemu.conf").write_text(QEMU_CONF.format(root=self.root))
        if CAPABILITIES.is_dir():
            shutil.copytree(CAPABILITIES, self._capabilities, dirs_exist_ok=True)

    @property
    def _capabilities(self) -> Path:
        return self.root / "cache/qemu/capabilities"

    @property
    def uri(self) -> str:
        return f"qemu:///system?socket={self.root}/sock/libvirt-sock"

    def start(self, timeout: float = 60) -> None:
        """Start libvirtd and wait until it answers."""
        binary = shutil.which("libvirtd", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if binary is None:
            message = "libvirtd is not installed; run `make deps`"
            raise RuntimeError(message)
        # In its own mount namespace, libvirtd can use the default paths: they lead to the testbed's directories.
        pairs = [word for path, name in PRIVATE for word in (path, name)]
        daemon = [binary, "--config", f"{self.root}/etc/libvirtd.conf", "--pid-file", f"{self.root}/libvirtd.pid"]
        command = ["unshare", "--mount", "sh", "-c", START, "sh", str(self.root), *pairs, "--", *daemon]
        with (self.root / "libvirtd.log").open("ab") as log:
            # In its own session: Ctrl-C is for the caller, and must not end libvirtd before its guests.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        process = self.process
        happens(lambda: process.poll() is not None or self._answers(), timeout, every=0.05)
        if process.poll() is not None or not self._answers():
            process.kill()
            process.wait()
            message = f"libvirtd did not start: {(self.root / 'libvirtd.log').read_text()[-2000:]}"
            raise RuntimeError(message)

    def _answers(self) -> bool:
        try:
            libvirt.open(self.uri).close()
        except libvirt.libvirtError:
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop this libvirtd. Its guests keep running."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None
            self._keep_capabilities()

    def _keep_capabilities(self) -> None:
        """Keep QEMU's capabilities for later private libvirtds. libvirt probes QEMU again if they are outdated, and
        then replaces the file.
        """
        CAPABILITIES.mkdir(parents=True, exist_ok=True)
        for answers in self._capabilities.glob("*.xml"):
            kept = CAPABILITIES / answers.name
            if not kept.exists() or kept.read_bytes() != answers.read_bytes():
                partial = kept.with_suffix(f".{os.getpid()}")
                shutil.copyfile(answers, partial)
                partial.replace(kept)

    def clear(self) -> None:
        """Remove the files outside of the root."""
        if (self.root / "run").is_symlink():
            shutil.rmtree((self.root / "run").readlink())
            (self.root / "run").unlink()

    def destroy_guests(self) -> None:
        """Destroy every guest of this libvirtd."""
        with contextlib.closing(libvirt.open(self.uri)) as connection:
            for domain in connection.listAllDomains():
                with contextlib.suppress(libvirt.libvirtError):
                    domain.destroy()


@contextlib.contextmanager
def private_libvirtd(root: Path) -> Iterator[Libvirtd]:
    """Run a libvirtd below `root`. On exit, libvirtd and all its guests are stopped."""
    daemon = Libvirtd(root)
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.process is None or daemon.process.poll() is not None:
            daemon.start()
        daemon.destroy_guests()
        daemon.stop()
        daemon.clear()
