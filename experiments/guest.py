"""The domain of a cell's guest, and the messages on its console."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape, quoteattr

from tests.support.guests import CPU
from tests.support.vm.boot import MASKED

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Boot", "console_messages", "debian_cmdline", "domain_xml"]

CMDLINE: Final = (
    "root=/dev/vda rw console=ttyS0 quiet loglevel=3 panic=-1 systemd.show_status=0 systemd.wants=field.service"
)
LINE: Final = re.compile(r"^field: (.*?)\r?\n", re.MULTILINE)


@dataclass(frozen=True)
class Boot:
    """Boot parameters of a guest: kernel, initramfs, command line; a disk (qcow2) and a payload (raw), if any."""

    kernel: Path
    initramfs: Path
    cmdline: str
    disk: Path | None = None
    payload: Path | None = None

    def disks(self) -> str:
        """Return the disks as XML."""
        return "".join(
            f"<disk type='file' device='disk'><driver name='qemu' type='{kind}' cache='unsafe'/>"
            f"<source file={quoteattr(str(path))}/><target dev='{device}' bus='virtio'/>{more}</disk>"
            for path, kind, device, more in (
                (self.disk, "qcow2", "vda", ""),
                (self.payload, "raw", "vdb", "<readonly/>"),
            )
            if path is not None
        )


def debian_cmdline(words: str) -> str:
    """Return the kernel command line for an image of the study. Timers with random timing are masked."""
    return " ".join([CMDLINE, *(f"systemd.mask={unit}" for unit in MASKED.split()), words])


def domain_xml(name: str, memory: int, boot: Boot, console: Path) -> str:
    """Return the XML of a transient domain with `memory` MiB, emulated for reproducibility; its console is a file."""
    return f"""
<domain type='qemu'>
  <name>{escape(name)}</name>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{escape(str(boot.kernel))}</kernel>
    <initrd>{escape(str(boot.initramfs))}</initrd>
    <cmdline>{escape(boot.cmdline)}</cmdline>
  </os>
  <features><acpi/></features>
  {CPU.format("<feature policy='require' name='rdrand'/>")}
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    {boot.disks()}
    <serial type='file'><source path={quoteattr(str(console))}/><target port='0'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
  <seclabel type='none'/>
</domain>"""


def console_messages(console: str) -> list[str]:
    """Return the messages of a guest so far, without the prefix "field: ": "mark 1", "done", and notes."""
    return LINE.findall(console)
