"""libvirt guests that report the true owners of their pages: guest_owners.c as process 1, or Debian with an agent."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol
from xml.sax.saxutils import escape, quoteattr

import libvirt
import libvirt_qemu

from experiments.guest import CMDLINE as DEBIAN_CMDLINE
from tests.support.attribution.memory_image import OWNERS_SOURCE
from tests.support.guests import CPU, wait_until_answered
from tests.support.images import compiled
from tests.support.vm.boot import MASKED
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.attribution.debian import Image
    from tests.support.guests import Spec

__all__ = ["DebianGuest", "InitramfsGuest", "Teller", "debian", "initramfs"]

# If the command line has a root device, even an absent one, the kernel unpacks its initramfs to a ramfs. The files are
# then in the page cache like any file, and not shared memory. Free pages keep their content, as in most guests.
RAMFS: Final = "root=/dev/none rdinit=/init init_on_free=0"
END: Final = b'{"type":"end"}\n'
# The reporting program is the guest's second disk, so that the image does not change with it.
TELL: Final = "cat /dev/vdb >/opt/guest_owners && chmod 755 /opt/guest_owners && exec /opt/guest_owners once"
# Processes of a guest that is up, and number and interval of checks for idleness.
WANTED: Final = ("apache2", "mariadbd|mysqld", "Xvfb", "mousepad", "python3")
RESTS: Final = 6
REST_SECONDS: Final = 5
SERIAL: Final = "<serial type='unix'><source mode='bind' path={}/><target port='1'/></serial>"


class Teller(Protocol):
    """A running guest that reports the true owners of its pages."""

    domain: libvirt.virDomain
    name: str

    def tell(self) -> list[bytes]:
        """Return the report, in the lines that tests.support.attribution.truth reads."""


@dataclass
class InitramfsGuest:
    """A running guest of an image of tests.support.attribution.memory_image."""

    domain: libvirt.virDomain
    name: str
    port: socket.socket

    def wait_until_up(self, timeout: float = 120) -> None:
        """Wait until process 1 replies and its tenants are idle."""
        wait_until_answered(self.port, timeout, self.name)
        self._settle()

    def _settle(self) -> None:
        """Wait for two equal reports, except for kernel memory: the tenants are then idle."""
        before: set[bytes] = set()

        def at_rest() -> bool:
            nonlocal before
            told = {line for line in self.tell() if line.startswith(b'{"type":"mapping"') and b'"busy' not in line}
            same, before = told == before, told
            return same

        wait_for(at_rest, 60, f"guest {self.name} is at rest", every=1)

    def tell(self) -> list[bytes]:
        self.port.settimeout(120)
        self.port.sendall(b"truth\n")
        told = bytearray()
        while not told.endswith(END):
            told += self.port.recv(1 << 16)
        return bytes(told).splitlines()


@contextlib.contextmanager
def initramfs(connection: libvirt.virConnect, directory: Path, *specs: Spec) -> Iterator[list[InitramfsGuest]]:
    """Start guests of these specs, with images of `memory_image`, and wait until they are idle. Destroyed on exit."""
    guests: list[InitramfsGuest] = []
    try:
        for spec in specs:
            port = directory / f"{abs(hash(spec.name)):x}.truth"
            line_xml = SERIAL.format(quoteattr(str(port)))
            spec_ = replace(spec, kaslr=True, cmdline=f"{RAMFS} {spec.cmdline}", devices=spec.devices + line_xml)
            domain = connection.createXML(spec_.xml(directory / f"{abs(hash(spec.name)):x}.serial"))
            line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            guests.append(InitramfsGuest(domain, spec.name, line))
            line.connect(str(port))
        for guest in guests:
            guest.wait_until_up()
        yield guests
    finally:
        for guest in guests:
            guest.port.close()
            with contextlib.suppress(Exception):
                guest.domain.destroy()


@dataclass
class DebianGuest:
    """A running guest of an image of tests.support.attribution.debian."""

    domain: libvirt.virDomain
    name: str

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the guest agent's reply. Raises libvirtError."""
        asked = json.dumps({"execute": command, "arguments": arguments})
        return json.loads(libvirt_qemu.qemuAgentCommand(self.domain, asked, 30, 0))["return"]

    def run(self, *command: str, timeout: float = 120) -> bytes:
        """Return the output of a program in the guest."""
        asked = {"path": command[0], "arg": list(command[1:]), "capture-output": True}
        process = self.ask("guest-exec", **asked)["pid"]

        def ended() -> Any:
            status = self.ask("guest-exec-status", pid=process)
            return status if status["exited"] else None

        status = wait_for(ended, timeout, f"{command[0]} in guest {self.name} ends", every=0.5)
        return base64.b64decode(status.get("out-data", ""))

    def wait_until_up(self, timeout: float = 600) -> None:
        """Wait until all expected processes run, and then until the set of processes is stable for half a minute (a
        database needs some time after its first start).
        """
        before, same = "", 0

        def at_rest() -> bool:
            nonlocal before, same
            now = ""
            with contextlib.suppress(libvirt.libvirtError):
                now = self._processes()
            up = all(re.search(rf" ({wanted})$", now, re.MULTILINE) for wanted in WANTED)
            before, same = now, same + 1 if up and now == before else 0
            return same >= RESTS

        wait_for(at_rest, timeout, lambda: f"guest {self.name} is at rest; it runs {before}", every=REST_SECONDS)

    def _processes(self) -> str:
        """Return IDs and names of processes, without kernel threads."""
        lines = self.run("/bin/ps", "--ppid", "2", "-p", "2", "--deselect", "-o", "pid=,comm=").decode().splitlines()
        return "\n".join(sorted(line for line in lines if not line.endswith(" ps")))

    def tell(self) -> list[bytes]:
        told = self.run("/bin/sh", "-c", TELL)
        if not told.endswith(END):
            message = f"guest {self.name} told {len(told)} bytes that have no end"
            raise RuntimeError(message)
        return told.splitlines()


@contextlib.contextmanager
def debian(
    connection: libvirt.virConnect, directory: Path, name: str, image: Image, memory: int = 1024, backing: str = ""
) -> Iterator[DebianGuest]:
    """Start a guest with its own overlay of the image, and wait until it is idle. Destroy it on exit."""
    layer = directory / f"{name}.qcow2"
    over = ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image.disk), str(layer))
    subprocess.run(over, check=True)
    domain = connection.createXML(_debian_xml(name, image, memory, backing, layer, directory))
    try:
        guest = DebianGuest(domain, name)
        guest.wait_until_up()
        yield guest
    finally:
        with contextlib.suppress(Exception):
            domain.destroy()


def _debian_xml(name: str, image: Image, memory: int, backing: str, layer: Path, directory: Path) -> str:
    masked = " ".join(f"systemd.mask={unit}" for unit in MASKED.split())
    teller = layer.with_suffix(".teller")
    content = compiled(OWNERS_SOURCE, "-static").read_bytes()
    teller.write_bytes(content + bytes(-len(content) % 512))
    cmdline = DEBIAN_CMDLINE.replace(" systemd.wants=field.service", "")
    return f"""
<domain type='qemu'>
  <name>{escape(name)}</name>
  <memory unit='MiB'>{memory}</memory>
  {backing}
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{escape(str(image.kernel))}</kernel>
    <initrd>{escape(str(image.initramfs))}</initrd>
    <cmdline>{escape(f"{cmdline} mitigations=off {masked}")}</cmdline>
  </os>
  <features><acpi/></features>
  {CPU.format("<feature policy='require' name='rdrand'/>")}
  <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='unsafe'/>
      <source file={quoteattr(str(layer))}/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/>
      <source file={quoteattr(str(teller))}/><target dev='vdb' bus='virtio'/><readonly/></disk>
    <serial type='file'><source path={quoteattr(str(directory / f"{name}.console"))}/><target port='0'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memballoon model='none'/>
  </devices>
  <seclabel type='none'/>
</domain>"""
