"""Leases of a lock manager during a pause: virtlockd's, on a guest's disk (docs/operate/what-guests-notice.md)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import libvirt
import pytest

from tests.support.guests import Spec, running
from tests.support.libvirtd import Libvirtd
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "samepaged-test-leased"
DISK = (
    "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>"
    "<target dev='sda' bus='sata'/></disk>"
)
# Another host that wants the disk: it tries to lock the byte that virtlockd locks, and holds it until a line comes.
RIVAL = """
import fcntl, sys, time
disk = open(sys.argv[1], "r+b")
while True:
    try:
        fcntl.lockf(disk, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
        break
    except OSError:
        time.sleep(0.001)
print("taken", flush=True)
sys.stdin.readline()
"""
PATH = os.environ.get("PATH", "") + ":/usr/sbin"


@pytest.fixture(scope="module")
def lockd() -> Iterator[Libvirtd]:
    """A libvirtd with virtlockd as its lock manager."""
    virtlockd = shutil.which("virtlockd", path=PATH)
    if virtlockd is None:
        pytest.skip("virtlockd is missing: it is in the package libvirt-daemon")
    with tempfile.TemporaryDirectory(prefix="spl-") as directory, contextlib.ExitStack() as stack:
        daemon = Libvirtd(Path(directory))
        config = Path(directory) / "etc/qemu.conf"
        config.write_text(config.read_text() + 'lock_manager = "lockd"\n')
        daemon.start()
        stack.callback(daemon.clear)
        stack.callback(daemon.stop)
        stack.callback(daemon.destroy_guests)
        assert daemon.process is not None
        locker = subprocess.Popen(["nsenter", "--mount", f"--target={daemon.process.pid}", virtlockd])
        stack.callback(locker.wait, 30)
        stack.callback(locker.terminate)
        wait_for((Path(directory) / "run/virtlockd-sock").exists)
        yield daemon


@pytest.fixture(scope="module")
def domain(lockd: Libvirtd) -> Iterator[Any]:
    """A guest with a disk, under a lease."""
    with contextlib.closing(libvirt.open(lockd.uri)) as connection:
        disk = lockd.root / "disk.img"
        disk.write_bytes(bytes(1 << 20))
        with running(connection, lockd.root, Spec(NAME, memory=84, devices=DISK.format(disk))) as (writer,):
            yield writer.domain


@contextlib.contextmanager
def rival(disk: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RIVAL, str(disk)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lease(disk: Path) -> bool:
    """Whether a process has a POSIX lock on the file's first byte (proc_locks(5))."""
    found = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    inode = str(disk.stat().st_ino)
    return any(
        word[1] == "POSIX" and word[5].split(":")[2] == inode and word[6] == "0" for word in found if len(word) == 8
    )


def test_a_suspend_releases_the_lease(lockd: Libvirtd, domain: Any) -> None:
    disk = lockd.root / "disk.img"
    assert lease(disk)
    domain.suspend()
    assert not lease(disk)
    domain.resume()
    assert lease(disk)


def test_a_lost_lease_delays_the_resume(lockd: Libvirtd, domain: Any, tmp_path: Path) -> None:
    """The guest stays paused while another host has the lease; samepaged resumes it when the lease is free."""
    disk = lockd.root / "disk.img"
    with rival(disk) as other:
        config = tmp_path / "config.yaml"
        config.write_text(f"state_directory: {tmp_path}/state\nruntime_directory: {tmp_path}/run\n")
        words = ("--config", str(config), "--connect", lockd.uri, "--mode", "snapshot", NAME)
        command = [sys.executable, "-m", "samepaged", "scan", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as scan:
            assert other.stdin is not None
            assert other.stdout is not None
            assert other.stdout.readline() == "taken\n"
            time.sleep(3)
            assert domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
            assert scan.poll() is None
            other.stdin.write("\n")
            other.stdin.flush()
            _, told = scan.communicate(timeout=60)
    # 0 if the scanner resumed it, 1 if the guard did: then the scan is void.
    assert scan.returncode in {0, 1}, told
    assert domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert lease(disk)
