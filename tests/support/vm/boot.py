"""Boots the lab host with a payload, prints its tests' output, and copies back their results."""

from __future__ import annotations

import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.vm.steps import LabError, need, say

if TYPE_CHECKING:
    from tests.support.vm.build import Image

__all__ = ["Machine", "boot"]

# QEMU's TCG emulates AMD's virtualisation, so that KVM runs guests in the host. The rest is x86-64-v2, without which
# numpy does not start, and a source of randomness, without which a host without devices waits for some.
CPU = "qemu64,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"
# Of a host that lives for a minute, what only costs time.
MASKED = """
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer logrotate.timer
    e2scrub_reap.service getty@tty1.service libvirt-guests.service serial-getty@ttyS0.service systemd-binfmt.service
    systemd-pstore.service systemd-update-utmp.service
"""
CMDLINE = (
    "root=/dev/nvme0n1 rw console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off systemd.show_status=0 "
    "systemd.wants=lab.service " + " ".join(f"systemd.mask={unit}" for unit in MASKED.split())
)
RESULTS_MIB = 64


@dataclass(frozen=True)
class Machine:
    """What the host has: virtual CPUs, and memory in MiB."""

    cpus: int = 2
    memory: int = 3072


def _disk(name: str, path: Path, *options: str) -> list[str]:
    drive = ",".join(["if=none", f"id={name}", f"file={path}", "format=raw", "cache=unsafe", *options])
    return ["-drive", drive, "-device", f"nvme,drive={name},serial={name}"]


def _command(image: Image, machine: Machine, payload: Path, results: Path, console: Path) -> list[str]:
    return [
        # Should we be killed, the host does not live on.
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
        *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", CPU),
        *("-smp", str(machine.cpus), "-m", str(machine.memory)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(image.kernel), "-append", CMDLINE),
        *_disk("root", image.disk, "snapshot=on"),
        *_disk("payload", payload, "readonly=on"),
        *_disk("results", results),
        # The first serial port is the console, the second shows what the tests say while they say it.
        *("-serial", f"file:{console}", "-serial", "stdio"),
    ]


def boot(image: Image, machine: Machine, payload: Path, results: Path, patience: float) -> int:
    """Run the payload to its end; what it leaves is in the directory `results`. Returns the exit status of the tests.
    Raises LabError where the host ended without one, or did not end in `patience` seconds.
    """
    need({"qemu-system-x86_64": "qemu-system-x86", "setpriv": "util-linux"})
    results.mkdir(parents=True, exist_ok=True)
    for old in results.iterdir():
        old.unlink()
    console, disk = results / "console.log", payload.with_name("results.tar")
    with disk.open("wb") as file:
        file.truncate(RESULTS_MIB << 20)
    command = _command(image, machine, payload, disk, console)
    # The layer over the image is beside the payload, not in a /tmp that may be memory.
    environment = {**os.environ, "TMPDIR": str(payload.parent)}
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment) as qemu:
        try:
            qemu.wait(patience)
        except subprocess.TimeoutExpired:
            raise LabError(f"the host did not end in {patience:g} s; {_last_words(console)}") from None
        finally:
            qemu.kill()
    _unpack(disk, results)
    status = results / "status"
    if not status.exists():
        raise LabError(f"the host ended without having run the tests; {_last_words(console)}")
    ended = int(status.read_text())
    say(f"the tests ended with status {ended}; logs are in {results}")
    return ended


def _last_words(console: Path) -> str:
    said = console.read_text(errors="replace") if console.exists() else ""
    return f"{console} ends with:\n" + "\n".join(said.splitlines()[-20:])


def _unpack(disk: Path, directory: Path) -> None:
    """The plain files in a tar, each by its own name. A host that crashed leaves none, or half of one."""
    try:
        with tarfile.open(disk) as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is not None:
                    (directory / Path(entry.name).name).write_bytes(content.read())
    except tarfile.TarError:
        return
