"""Boot the lab host with a payload, print the output of its tests, and collect their results."""

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

# QEMU's TCG emulates AMD's virtualisation, so that KVM runs guests in the host. The other flags are x86-64-v2, which
# numpy requires, and a source of randomness: without devices, the host would wait for entropy.
CPU = "qemu64,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"
# Units that only cost time on a host that lives for a minute.
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
    """Resources of the host: virtual CPUs, and memory in MiB."""

    cpus: int = 2
    memory: int = 3072


def _disk(name: str, path: Path, *options: str) -> list[str]:
    drive = ",".join(["if=none", f"id={name}", f"file={path}", "format=raw", "cache=unsafe", *options])
    return ["-drive", drive, "-device", f"nvme,drive={name},serial={name}"]


def _command(image: Image, machine: Machine, payload: Path, results: Path, console: Path) -> list[str]:
    return [
        # If this process is killed, the host ends as well.
        *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"),
        *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", CPU),
        *("-smp", str(machine.cpus), "-m", str(machine.memory)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(image.kernel), "-append", CMDLINE),
        *_disk("root", image.disk, "snapshot=on"),
        *_disk("payload", payload, "readonly=on"),
        *_disk("results", results),
        # The first serial port is the console, the second carries the live output of the tests.
        *("-serial", f"file:{console}", "-serial", "stdio"),
    ]


def boot(image: Image, machine: Machine, payload: Path, results: Path, patience: float) -> int:
    """Run the payload to its end; its results are in the directory `results`. Returns the exit status of the tests.
    Raises LabError if the host ended without a status, or did not end in `patience` seconds.
    """
    need({"qemu-system-x86_64": "qemu-system-x86", "setpriv": "util-linux"})
    results.mkdir(parents=True, exist_ok=True)
    for old in results.iterdir():
        old.unlink()
    console, disk = results / "console.log", payload.with_name("results.tar")
    with disk.open("wb") as file:
        file.truncate(RESULTS_MIB << 20)
    command = _command(image, machine, payload, disk, console)
    # The layer over the image is beside the payload, because /tmp may be in memory.
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
    """Extract the plain files of a tar, by base name. A host that crashed leaves an empty or incomplete tar."""
    try:
        with tarfile.open(disk) as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is not None:
                    (directory / Path(entry.name).name).write_bytes(content.read())
    except tarfile.TarError:
        return
